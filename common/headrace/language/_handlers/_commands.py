"""`shell`, `script`, `docker/*`: handlers that run programs."""

from __future__ import annotations

from headrace.language._handlers._spec import HandlerSpec, InputField, field, out, text

ENVIRONMENT = field("object", "Environment, beside the step's own.", {})
DIRECTORY = text("Folder to run in, relative to the workspace.", default="")
COMMAND_OUTPUTS = {
    "exit-code": out("integer", "Exit status; negative: killed by that signal."),
    "stdout": out("string", "What it printed: all of it, or the end of a long text."),
    "stdout-truncated": out("boolean", "True where `stdout` is only the end.", always=False),
}

SHELL = HandlerSpec(
    name="shell",
    description="Runs a script in a shell; `run:` of a step is short for it.",
    inputs={
        "run": text("The script.", required=True),
        "shell": text(
            "bash, sh, python, or a command with {0} for the script's file; by default bash, or sh "
            "where there is none.",
            default="",
        ),
        "working-directory": DIRECTORY,
        "env": ENVIRONMENT,
    },
    outputs=COMMAND_OUTPUTS,
    open_outputs=True,
    example="""\
- id: build
  uses: shell
  with:
    run: |
      echo "version=1.4" >> "$GITHUB_OUTPUT"
      echo "built for $TARGET"
    env: {TARGET: linux}
- run: test "${{ steps.build.outputs.version }}" = 1.4
""",
)

SCRIPT = HandlerSpec(
    name="script",
    description="Runs code of a language, or a file of it; the result is what it prints.",
    inputs={
        "language": InputField(
            description="Language of the code.",
            default="python",
            options=(
                "python", "python3", "sh", "shell", "bash", "node", "javascript", "js",
            ),
        ),
        "code": text("The code; this or `file`.", default=""),
        "file": text("A file in the workspace; this or `code`.", default=""),
        "args": field("list", "Arguments.", []),
        "input": field(
            "any",
            "Data for the code: its standard input, the file $HEADRACE_INPUT_FILE, $INPUT_DATA if "
            "it is not too long, and input_data in python and node. What is no text comes as JSON.",
        ),
        "input_data": field("any", "The same."),
        "working-directory": DIRECTORY,
        "env": ENVIRONMENT,
    },
    outputs={
        "result": out("any", "Its stdout: parsed if that is JSON, else text."),
        **COMMAND_OUTPUTS,
    },
    open_outputs=True,
    exactly_one=(("code", "file"),),
    at_most_one=(("input", "input_data"),),
    example="""\
- id: sum
  uses: script
  with:
    language: python
    input: [1, 2, 3]
    code: |
      import json
      print(json.dumps({"total": sum(json.loads(input_data))}))
- run: test "${{ steps.sum.outputs.result.total }}" = 6
""",
)  # fmt: skip

_PROJECT = {
    "file": field("texts", "Compose file, or a list of them.", ""),
    "project": text("Name of the project.", default=""),
    "directory": text("Folder of the project, relative to the workspace.", default=""),
    "services": field("list", "Only these services.", []),
    "args": field("list", "Further options of the docker command.", []),
}

DOCKER = (
    HandlerSpec(
        name="docker/run",
        description="Runs a container to its end; it is removed however the step ends.",
        inputs={
            "image": text("The image.", required=True),
            "command": field("texts", "Command: a line, or its words.", ""),
            "args": field("list", "Further options of docker run.", []),
            "entrypoint": text("Entry point.", default=""),
            "mount-workspace": field("boolean", "Mount the workspace as /workspace.", False),
            "env": ENVIRONMENT,
            "volumes": field("list", "Mounts.", []),
            "workdir": text("Folder in the container.", default=""),
            "network": text("Network.", default=""),
            "pull": InputField(
                description="When to pull the image.",
                default="",
                options=("", "always", "missing", "never"),
            ),
        },
        outputs=COMMAND_OUTPUTS,
        open_outputs=True,
        example="""\
- id: hello
  uses: docker/run
  with: {image: "busybox:1.37", command: echo hello, network: none}
""",
    ),
    HandlerSpec(
        name="docker/exec",
        description="Runs a command in a container; without one, a command line on the host.",
        inputs={
            "command": field("texts", "Command: a line, or its words.", required=True),
            "container": text("Name or id of the container.", default=""),
            "user": text("User.", default=""),
            "workdir": text("Folder in the container.", default=""),
            "env": ENVIRONMENT,
        },
        outputs=COMMAND_OUTPUTS,
        open_outputs=True,
        example="""\
- uses: docker/exec
  with: {container: database, command: pg_isready, user: postgres}
""",
    ),
    HandlerSpec(
        name="docker/pull",
        description="Fetches an image.",
        inputs={
            "image": text("The image.", required=True),
            "platform": text("Platform, such as linux/arm64.", default=""),
        },
        outputs={
            "image": out("string", "The image, as asked for."),
            "digest": out("string", "Its digest; empty if the engine does not say."),
        },
        example="""\
- id: image
  uses: docker/pull
  with: {image: "busybox:1.37"}
""",
    ),
    HandlerSpec(
        name="docker/compose-up",
        description="Starts a compose project in the background.",
        inputs=_PROJECT
        | {
            "build": field("boolean", "Build images first.", False),
            "wait": field("boolean", "Wait until the services are healthy.", True),
        },
        outputs=COMMAND_OUTPUTS,
        open_outputs=True,
        example="""\
- uses: docker/compose-up
  with: {file: compose.yaml, project: shop, services: [web]}
""",
    ),
    HandlerSpec(
        name="docker/compose-down",
        description="Stops a compose project and removes it.",
        inputs=_PROJECT | {"volumes": field("boolean", "Remove volumes too.", False)},
        outputs=COMMAND_OUTPUTS,
        open_outputs=True,
        example="""\
- uses: docker/compose-down
  with: {file: compose.yaml, project: shop, volumes: true}
""",
    ),
)
