"""What a world can be made of: every kind of node with each of its options, every request that a
client can send, every fact that can stand in a log; and what no world has, with the reason.

All of it comes from the unions of plans, messages and events: something new is missed at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from headrace.events import RunEvent, ShardEvent
from headrace.messages import ClientRequest
from headrace.plan import Node, Plan, Subworkflow, decode_plan
from headrace.retry import RetryPolicy

NODES = get_args(Node)
REQUESTS = get_args(ClientRequest)
EVENTS = (*get_args(RunEvent), *get_args(ShardEvent))
NAMES = {kind.__struct_config__.tag: kind.__name__ for kind in EVENTS}
"""Of facts, by their tag."""

_SHOWN = "it is for people, and nothing is decided by it"
_CLIENT = "the client's library looks at it, and no coordinator"
_VALUES = "values and expressions have a suite of their own; a world's are plain"
_CALENDAR = "the calendar has tests of its own; a world's is simple"
_REFUSED = "nothing that begins by itself is refused: all that it is made of is sound"
_PATCH = "patches have properties and tests with real processes, and no world yet"
_CHANGED = "functions of a world do not change; changed code has tests of its own, with kills"
NEVER = {
    **dict.fromkeys(("UnblockRun", "RunUnblocked", "EntryAccepted"), _CHANGED),
    "QueryRun.argument": "what a query's function is given has tests of the SDK's",
    "GetEvidence": "it reads a history, which worlds compare as a whole",
    "*.title": _SHOWN,
    "*.description": _SHOWN,
    "*.position": _SHOWN,
    "Position": _SHOWN,
    "*.actor": _SHOWN,
    "*.reason": _SHOWN,
    "*.source": _SHOWN,
    "*.labels": _SHOWN,
    "Plan.run_name": _SHOWN,
    "Plan.version": _SHOWN,
    "Plan.file": _SHOWN,
    "Plan.dialect": _SHOWN,
    "ScheduleSpec.workflow": _SHOWN,
    "Plan.inputs": _CLIENT,
    "InputSpec": _CLIENT,
    "Plan.secrets": "they are resolved on workers, and never reach a coordinator",
    "SecretSpec": "they are resolved on workers, and never reach a coordinator",
    "Call": "a called workflow is a group; what it sees is a matter of expressions",
    "Group.call": "a called workflow is a group; what it sees is a matter of expressions",
    "*.env": _VALUES,
    "*.vars": _VALUES,
    "Group.outputs": _VALUES,
    "Loop.variable": _VALUES,
    "Subworkflow.inputs": _VALUES,
    "EventTrigger.inputs": _VALUES,
    "Schedule.inputs": _VALUES,
    "ScheduleSpec.input": _VALUES,
    "*.timezone": _CALENDAR,
    "*.window_ms": _CALENDAR,
    "GetInfo": "any coordinator answers it, of its own view; no log is asked",
    "ListRuns.cursor": "pages have properties of their own",
    "StartDeclined": _REFUSED,
    "EventRunDeclined": _REFUSED,
    "TriggerFailed": _REFUSED,
    "ChildRefused": _REFUSED,
    "PatchRun": _PATCH,
    "PlanPatched": _PATCH,
    "RunQuarantined": "no event is poison: that is a fault of the code, with tests of its own",
    "PlansForgotten": "it takes more plans than a world has",
}
"""Name (`*`: of anything) -> why no world has it. A struct's fields go with it."""


UNJUDGED = {
    "RunUnblocked": "it does not happen (`NEVER`)",
    "PlanPatched": "it does not happen (`NEVER`)",
    "SegmentArchived": "the archive itself is compared, in the end",
    "PlansForgotten": "clients store them again, and no run may miss one",
    "KeyDeclined": "an intent: who holds what is judged",
    "OutboxCleared": "an intent is done: what it was for is judged",
    "ChildRefused": "it does not happen (`NEVER`)",
    "StartDeclined": "it does not happen (`NEVER`)",
    "SettingsChanged": "the layout of a world does not change",
    "ScheduleRunEnded": "what begins next is judged",
    "ScheduleDeleted": "what begins after it is judged",
    "SchedulesApplied": "the schedules themselves are judged",
}
"""Facts without a rule of their own, and why."""


def known() -> set[str]:
    """Return the names of all that there is, but for what no world has."""
    found: set[str] = set()
    for kind in (*NODES, Plan, *REQUESTS):
        found |= set(options(kind))
    found |= {kind.__name__ for kind in EVENTS}
    return {name for name in found if not _is_left_out(name)}


def _is_left_out(name: str) -> bool:
    kind, _, field = name.partition("=")[0].partition(".")
    return any(left in NEVER for left in (kind, f"{kind}.{field}", f"*.{field}"))


def _shared() -> frozenset[str]:
    """Return the fields that every kind of node has: they count once."""
    return frozenset.intersection(*(frozenset(kind.__struct_fields__) for kind in NODES))


_EVERY_NODE = _shared()
_PLACES = ("name", "parent", "size", "nodes", "format", "request_id", "not_after_ms", "run")
"""Fields that say nothing by themselves."""


def _owner(kind: type[Any], field: str) -> str:
    return "Node" if kind in NODES and field in _EVERY_NODE else kind.__name__


def options(kind: type[Any]) -> Iterator[str]:
    """Return the names of a struct, its fields and their values, and of structs in them."""
    yield kind.__name__
    hints = get_type_hints(kind)
    for info in msgspec.structs.fields(kind):
        field = info.name
        if field in _PLACES or kind is RetryPolicy:
            continue
        owner = _owner(kind, field)
        yield f"{owner}.{field}"
        for part in _parts(hints[field]):
            if get_origin(part) is Literal:
                values = (value for value in get_args(part) if value and value != info.default)
                yield from (f"{owner}.{field}={value}" for value in values)
            elif isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield from options(part)


def _parts(hint: Any) -> Iterator[Any]:
    """Return what a type is made of, itself included."""
    yield hint
    for part in get_args(hint) if get_origin(hint) is not Literal else ():
        yield from _parts(part)


def of_plan(plan: Plan) -> Iterator[str]:
    """Return what a plan is made of, the plans inside of it included."""
    yield from of_struct(plan)
    # The nodes themselves are no field of theirs.
    for node in plan.nodes:
        yield from of_struct(node)
        if isinstance(node, Subworkflow) and node.plan:
            yield from of_plan(decode_plan(node.plan))


def of_struct(found: Any) -> Iterator[str]:
    """Return what a struct says: its name, and the fields that are not as without a word."""
    kind = type(found)
    yield kind.__name__
    for info in msgspec.structs.fields(kind):
        value = getattr(found, info.name)
        if info.name in _PLACES or kind is RetryPolicy:
            continue
        if not info.required and value == _default(info):
            continue
        owner = _owner(kind, info.name)
        yield f"{owner}.{info.name}"
        if isinstance(value, str):
            yield f"{owner}.{info.name}={value}"
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, msgspec.Struct):
                yield from of_struct(inner)


def _default(info: msgspec.structs.FieldInfo) -> Any:
    return info.default if info.default_factory is msgspec.NODEFAULT else info.default_factory()
