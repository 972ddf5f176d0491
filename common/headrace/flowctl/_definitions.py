"""Workflow files to plans."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError, InvalidRequest, LimitExceeded, NotFound

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.language import FindRegistered
    from headrace.plan import Plan

FILE_BYTES_MAX = 8 * 1024 * 1024


def load_definition(
    file: str,
    *,
    handlers: Iterable[str] = (),
    allow_unknown: bool = False,
    find: FindRegistered | None = None,
) -> Plan:
    """Return the plan of a workflow file.

    *handlers* are known beside the built-in ones; with *allow_unknown* any name is. *find* looks up
    registered workflows that it names; without it they stay open (see `looked_up`). Raises
    `InvalidDefinition` with every problem in it, and `InvalidRequest` if it cannot be read.
    """
    from headrace.language import HandlerSpec, compile_workflow

    specs = {name: HandlerSpec(name=name, open=True) for name in handlers}
    text = read_definition(file)
    return compile_workflow(
        text, file=file, handlers=specs, allow_unknown=allow_unknown, load=_called, find=find
    )


def _called(name: str) -> str:
    """Return the text of a workflow that another one calls by its path."""
    if not name.endswith((".yaml", ".yml")):
        raise InvalidRequest("write './FILE.yaml', or the NAME or NAME@VERSION of a registered one")
    return read_definition(name)


def open_names(plan: Plan) -> set[str]:
    """Return the registered workflows that *plan* names and that were not looked up yet."""
    from headrace.plan import Subworkflow, decode_plan

    found: set[str] = set()
    for node in plan.nodes:
        if isinstance(node, Subworkflow):
            found |= open_names(decode_plan(node.plan)) if node.plan else {node.source}
    return found


async def looked_up(client: Client, file: str, plan: Plan) -> Plan:
    """Return the plan of *file* with the registered workflows that it names compiled in.

    *plan* is what `load_definition` has made of it: nothing is asked if it names none. The versions
    of this moment stay. Raises `InvalidDefinition` for what is not registered, or does not fit.
    """
    from headrace.plan import decode_plan

    known: dict[str, tuple[Plan, str] | HeadraceError] = {}
    for target in sorted(open_names(plan)):
        name, _, version = target.partition("@")
        try:
            view = await client.definitions.get(name, version)
        except NotFound as error:
            known[target] = error
        else:
            known[target] = decode_plan(view.plan), f"{view.name}@{view.version}"
    if not known:
        return plan

    def find(target: str) -> tuple[Plan, str]:
        found = known.get(target) or NotFound(f"{target} was not there a moment ago")
        if isinstance(found, HeadraceError):
            raise found
        return found

    return load_definition(file, allow_unknown=True, find=find)


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
        elif isinstance(node, Subworkflow) and node.plan:
            used |= custom_handlers(decode_plan(node.plan))
    return used - BUILTIN_HANDLERS.keys()


def read_definition(file: str) -> str:
    """Return a file's text. Raises `InvalidRequest`, `LimitExceeded`."""
    try:
        with Path(file).open("rb") as source:
            data = source.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror or error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise LimitExceeded(f"{file} has more than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8 text") from error
