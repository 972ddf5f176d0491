"""Handlers that steps may use, and the inputs of those that every worker has. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

FieldType = Literal["string", "number", "boolean", "list", "object", "any", "duration"]


class InputField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input of a handler."""

    type: FieldType = "string"
    required: bool = False
    default: Any = None
    description: str = ""
    options: tuple[str, ...] = ()
    """If not empty, the only texts allowed."""


class HandlerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step that ``uses: <name>`` may say under ``with:``."""

    name: str
    description: str = ""
    inputs: dict[str, InputField] = {}
    open: bool = False
    """Takes inputs beside those declared."""


def _text(description: str, *, required: bool = False, default: Any = None) -> InputField:
    return InputField(description=description, required=required, default=default)


def _field(kind: FieldType, description: str, default: Any = None) -> InputField:
    return InputField(type=kind, description=description, default=default)


_ENVIRONMENT = _field("object", "Environment, beside the step's own.")
_DIRECTORY = _text("Folder to run in, relative to the workspace.")
_FOLDER = _text("Folder of the compose project.")
_PROJECT = _text("Name of the compose project.")
_COMPOSE_FILE = InputField(type="any", description="Compose file, or a list of them.")

_SPECS = (
    HandlerSpec(
        name="shell",
        description="Runs a script in a shell.",
        inputs={
            "run": _text("The script.", required=True),
            "shell": _text("sh, bash, python, or a command with {0}.", default="sh"),
            "working-directory": _DIRECTORY,
            "env": _ENVIRONMENT,
        },
    ),
    HandlerSpec(
        name="script",
        description="Runs code of a language, or a file of it.",
        inputs={
            "language": InputField(
                description="Language of the code.",
                default="python",
                options=("python", "sh", "bash"),
            ),
            "code": _text("The code; this or file."),
            "file": _text("A file in the workspace; this or code."),
            "args": _field("list", "Arguments."),
            "input": _field("any", "JSON for the code, as its standard input."),
            "input_data": _field("any", "The same, as the variable input_data of Python code."),
            "working-directory": _DIRECTORY,
            "env": _ENVIRONMENT,
        },
    ),
    HandlerSpec(
        name="http/request",
        description="Sends one HTTP request.",
        inputs={
            "url": _text("http or https.", required=True),
            "method": _text("Method.", default="GET"),
            "headers": _field("object", "Headers."),
            "query": _field("object", "Query parameters, added to the URL."),
            "body": _field("any", "Body: text, or JSON."),
            "json": _field("any", "Body as JSON; this or body."),
            "timeout": _field("duration", "Longest wait.", 30),
            "expect-status": _field("any", "Status that counts as success, or a list."),
            "follow-redirects": _field("boolean", "Follow redirects.", True),
            "auth": _field("object", "{username, password} or {bearer}."),
        },
    ),
    HandlerSpec(
        name="file/read",
        description="Reads a file.",
        inputs={
            "path": _text("The file.", required=True),
            "encoding": _text("Encoding, or base64.", default="utf-8"),
            "format": InputField(
                description="How to read it.", default="text", options=("text", "json")
            ),
        },
    ),
    HandlerSpec(
        name="file/write",
        description="Writes a file at once, whole or not at all.",
        inputs={
            "path": _text("The file.", required=True),
            "content": InputField(type="any", required=True, description="Text, or JSON."),
            "make-folders": _field("boolean", "Make the folders that are missing.", True),
            "append": _field("boolean", "Add to the end instead.", False),
            "mode": _text("Permissions, octal."),
            "encoding": _text("Encoding, or base64.", default="utf-8"),
        },
    ),
    HandlerSpec(
        name="file/copy",
        description="Copies a file or a folder.",
        inputs={
            "source": _text("From.", required=True),
            "destination": _text("To.", required=True),
            "overwrite": _field("boolean", "Replace what is there.", True),
        },
    ),
    HandlerSpec(
        name="file/transfer",
        description="Moves data between a file and S3-compatible storage.",
        inputs={
            "source": _text("Path or s3://bucket/key.", required=True),
            "destination": _text("Path or s3://bucket/key; may hold {date}.", required=True),
            "endpoint": _text("URL of the storage."),
            "region": _text("Region of the storage."),
            "access-key": _text("Access key."),
            "secret-key": _text("Secret key."),
        },
    ),
    HandlerSpec(
        name="sleep",
        description="Waits on the worker; the step `sleep:` waits without holding a slot.",
        inputs={"duration": InputField(type="duration", required=True, description="How long.")},
    ),
    HandlerSpec(
        name="noop",
        description="Does nothing; its inputs are its outputs.",
        open=True,
    ),
    HandlerSpec(
        name="docker/run",
        description="Runs a container to its end.",
        inputs={
            "image": _text("The image.", required=True),
            "command": _field("any", "Command, text or list."),
            "args": _field("list", "Arguments of docker run."),
            "entrypoint": _text("Entry point."),
            "mount-workspace": _field("boolean", "Mount the job's workspace.", False),
            "env": _ENVIRONMENT,
            "volumes": _field("list", "Mounts."),
            "workdir": _text("Folder in the container."),
            "network": _text("Network."),
            "pull": _text("Pull policy: always, missing or never."),
        },
    ),
    HandlerSpec(
        name="docker/exec",
        description="Runs a command in a container, or on the host where no container is named.",
        inputs={
            "command": InputField(type="any", required=True, description="Command, text or list."),
            "container": _text("Name or id of the container."),
            "user": _text("User."),
            "workdir": _text("Folder in the container."),
            "env": _ENVIRONMENT,
        },
    ),
    HandlerSpec(
        name="docker/compose-up",
        description="Starts a compose project.",
        inputs={
            "file": _COMPOSE_FILE,
            "project": _PROJECT,
            "directory": _FOLDER,
            "services": _field("list", "Only these services."),
            "build": _field("boolean", "Build images first.", False),
            "wait": _field("boolean", "Wait until the services are healthy.", True),
        },
    ),
    HandlerSpec(
        name="docker/compose-down",
        description="Stops a compose project and removes it.",
        inputs={
            "file": _COMPOSE_FILE,
            "project": _PROJECT,
            "directory": _FOLDER,
            "volumes": _field("boolean", "Remove volumes too.", False),
        },
    ),
)

BUILTIN_HANDLERS: Mapping[str, HandlerSpec] = {spec.name: spec for spec in _SPECS}
"""By name, what every worker can run."""

TASK_TYPE_ALIASES: Mapping[str, str] = {"http": "http/request", "docker": "docker/run"}
"""Names of the `tasks:` dialect for handlers."""
INPUT_ALIASES: Mapping[str, Mapping[str, str]] = {"shell": {"command": "run"}}
"""By handler: other names of inputs."""
