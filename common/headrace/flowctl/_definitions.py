"""Workflow files to plans."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import InvalidRequest, LimitExceeded, NotFound

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.plan import Plan

FILE_BYTES_MAX = 8 * 1024 * 1024


def load_definition(
    file: str, *, handlers: Iterable[str] = (), allow_unknown: bool = False
) -> Plan:
    """Return the plan of a workflow file.

    *handlers* are known beside the built-in ones; with *allow_unknown* any name is. Raises
    `InvalidDefinition` with every problem in it, and `InvalidRequest` if it cannot be read.
    """
    from headrace.language import HandlerSpec, compile_workflow

    specs = {name: HandlerSpec(name=name, open=True) for name in handlers}
    text = read_definition(file)
    return compile_workflow(
        text, file=file, handlers=specs, allow_unknown=allow_unknown, load=_called
    )


def _called(name: str) -> str:
    """Return the text of a workflow that another one calls by *name*."""
    if not name.endswith((".yaml", ".yml")):
        raise InvalidRequest(f"only files can be called: write 'uses: ./{name}.yaml'")
    return read_definition(name)


def is_file(target: str) -> bool:
    """Tell whether *target* means a file: it is there, or it cannot be the name of a definition."""
    from headrace.messages import subjects

    return Path(target).exists() or not subjects.valid_name(target.partition("@")[0])


async def registered_plan(client: Client, target: str) -> Plan:
    """Return the plan that ``NAME[@VERSION]`` names. Raises `NotFound`, `InvalidRequest`."""
    name, at, version = target.partition("@")
    if at and not version:
        raise InvalidRequest(f"{target}: a version is expected behind the @")
    try:
        return await client.definitions.plan(name, version)
    except NotFound as error:
        raise NotFound(f"no file {target}, and {error}") from error


def custom_handlers(plan: Plan) -> set[str]:
    """Return the handlers that *plan* uses and that are not built in."""
    from headrace.language import BUILTIN_HANDLERS
    from headrace.plan import Subworkflow, Task, decode_plan

    used: set[str] = set()
    for node in plan.nodes:
        if isinstance(node, Task):
            used.add(node.uses)
        elif isinstance(node, Subworkflow):
            used |= custom_handlers(decode_plan(node.plan))
    return used - BUILTIN_HANDLERS.keys()


def read_definition(file: str) -> str:
    """Return a file's text. Raises `InvalidRequest`, `LimitExceeded`."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror or error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise LimitExceeded(f"{file} has more than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8 text") from error
