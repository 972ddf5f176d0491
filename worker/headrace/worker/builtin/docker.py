"""`docker/run`, `docker/exec`, `docker/compose-up`, `docker/compose-down`, by the docker CLI."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.worker.builtin.process import run_process
from headrace.worker.builtin.shell import CommandOutputs, run_command, run_script
from headrace.worker.handlers import Context, HandlerError, handler
from headrace.worker.scalars import text_of

PROBE_S: Final = 10.0
_Values = dict[str, str | int | float | bool | None]


class RunInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """A container that lives as long as the step."""

    image: str
    command: str | list[str] = ""
    args: list[str] = []
    """Further options of ``docker run``."""
    env: _Values = {}
    volumes: list[str] = []
    workdir: str = ""
    entrypoint: str = ""
    network: str = ""
    pull: str = ""
    """`always`, `missing` or `never`."""
    mount_workspace: bool = False
    """The workspace as ``/workspace``."""


class ExecInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """A command in a running container, or without one, a command line of docker itself."""

    command: str | list[str]
    container: str = ""
    env: _Values = {}
    workdir: str = ""
    user: str = ""


class PullInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """An image."""

    image: str
    platform: str = ""


class PullOutputs(msgspec.Struct):
    """What was fetched."""

    image: str
    digest: str


class ProjectInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """A Compose project; its files are relative to `directory`, and that to the workspace."""

    file: str | list[str] = ""
    project: str = ""
    directory: str = ""
    services: list[str] = []
    args: list[str] = []


class UpInputs(ProjectInputs, forbid_unknown_fields=True, rename="kebab"):
    """What to start."""

    build: bool = False
    wait: bool = True
    """Until the services are healthy."""


class DownInputs(ProjectInputs, forbid_unknown_fields=True, rename="kebab"):
    """What to stop."""

    volumes: bool = False
    """Remove them, too."""


@handler("docker/run", outputs=CommandOutputs)
async def run(ctx: Context, inputs: RunInputs) -> dict[str, Any]:
    """Run a container to its end; it is removed however the step ends."""
    await _engine(ctx)
    key = f"{ctx.idempotency_key}#{ctx.attempt}#{ctx.token}"
    name = f"headrace-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"
    words = [
        "docker",
        "run",
        "--rm",
        "--init",
        "--name",
        name,
        "--label",
        f"headrace.run={ctx.run}",
    ]
    for variable, value in inputs.env.items():
        words += ["--env", f"{variable}={text_of(value)}"]
    for volume in inputs.volumes:
        words += ["--volume", volume]
    if inputs.mount_workspace:
        words += ["--volume", f"{ctx.workspace}:/workspace", "--workdir", "/workspace"]
    for option, chosen in (
        ("--workdir", inputs.workdir),
        ("--entrypoint", inputs.entrypoint),
        ("--network", inputs.network),
        ("--pull", inputs.pull),
    ):
        if chosen:
            words += [option, chosen]
    words += [*inputs.args, inputs.image, *_words(inputs.command)]
    try:
        return await _docker(ctx, words)
    except asyncio.CancelledError:
        # The engine keeps a container whose client was killed.
        await _quietly(ctx, ["docker", "rm", "--force", name])
        raise


@handler("docker/exec", outputs=CommandOutputs)
async def execute(ctx: Context, inputs: ExecInputs) -> dict[str, Any]:
    """Run a command in a container."""
    await _engine(ctx)
    if not inputs.container:
        command = inputs.command
        line = command if isinstance(command, str) else shlex.join(command)
        env = {name: text_of(value) for name, value in inputs.env.items()}
        return await run_script(ctx, line, shell="sh", env=env)
    words = ["docker", "exec"]
    for variable, value in inputs.env.items():
        words += ["--env", f"{variable}={text_of(value)}"]
    for option, chosen in (("--workdir", inputs.workdir), ("--user", inputs.user)):
        if chosen:
            words += [option, chosen]
    words.append(inputs.container)
    if isinstance(inputs.command, str):
        words += ["sh", "-c", inputs.command]
    else:
        words += inputs.command
    return await _docker(ctx, words)


@handler("docker/pull")
async def pull(ctx: Context, inputs: PullInputs) -> PullOutputs:
    """Fetch an image; its layers show in the log."""
    await _engine(ctx)
    if inputs.image.startswith("-"):
        raise HandlerError("invalid-input", f"docker/pull: image {inputs.image!r}", False)
    platform = ["--platform", inputs.platform] if inputs.platform else []
    await _docker(ctx, ["docker", "pull", *platform, inputs.image])
    digests = "{{range .RepoDigests}}{{println .}}{{end}}"
    found = await _docker(ctx, ["docker", "image", "inspect", "--format", digests, inputs.image])
    lines = found["stdout"].split()
    return PullOutputs(inputs.image, lines[0].rpartition("@")[2] if lines else "")


@handler("docker/compose-up", outputs=CommandOutputs)
async def compose_up(ctx: Context, inputs: UpInputs) -> dict[str, Any]:
    """Start services in the background."""
    await _engine(ctx)
    words = [*_compose(inputs), "up", "--detach", *inputs.args]
    words += ["--build"] if inputs.build else []
    words += ["--wait"] if inputs.wait else []
    return await _docker(ctx, [*words, *inputs.services], inputs.directory)


@handler("docker/compose-down", outputs=CommandOutputs)
async def compose_down(ctx: Context, inputs: DownInputs) -> dict[str, Any]:
    """Stop services and remove their containers."""
    await _engine(ctx)
    words = [*_compose(inputs), "down", *inputs.args]
    words += ["--volumes"] if inputs.volumes else []
    return await _docker(ctx, [*words, *inputs.services], inputs.directory)


def _compose(inputs: ProjectInputs) -> list[str]:
    words = ["docker", "compose"]
    for file in [inputs.file] if isinstance(inputs.file, str) else inputs.file:
        if file:
            words += ["--file", file]
    if inputs.project:
        words += ["--project-name", inputs.project]
    return words


def _words(command: str | list[str]) -> list[str]:
    if isinstance(command, list):
        return command
    try:
        return shlex.split(command)
    except ValueError as error:
        raise HandlerError("invalid-input", f"command {command!r}: {error}", False) from error


async def _docker(ctx: Context, words: list[str], directory: str = "") -> dict[str, Any]:
    return await run_command(ctx, lambda _folder, _variables: words, working_directory=directory)


async def _engine(ctx: Context) -> None:
    """Raise `HandlerError` of type `no-engine` unless docker and its engine are there."""
    program = shutil.which("docker")
    if program is None:
        raise HandlerError("no-engine", "this worker has no docker command", retryable=False)
    said: list[str] = []
    try:
        async with asyncio.timeout(PROBE_S):
            finished = await run_process(
                [program, "version", "--format", "{{.Server.Version}}"],
                cwd=Path("/"),
                env=_plain_environment(),
                on_line=lambda _stream, line: said.append(line),
                grace_ms=500,
            )
    except TimeoutError as error:
        raise HandlerError("no-engine", f"docker does not answer in {PROBE_S:g} s") from error
    if finished.code != 0:
        why = finished.stderr_last or f"exit code {finished.code}"
        raise HandlerError("no-engine", f"docker has no engine: {why[:300]}")


async def _quietly(ctx: Context, words: list[str]) -> None:
    try:
        async with asyncio.timeout(PROBE_S):
            await run_process(
                words,
                cwd=Path("/"),
                env=_plain_environment(),
                on_line=lambda _stream, _line: None,
                grace_ms=500,
            )
    except (HandlerError, TimeoutError) as error:
        ctx.log(f"{shlex.join(words)}: {error}", stream="system")


def _plain_environment() -> dict[str, str]:
    return {
        name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ
    }
