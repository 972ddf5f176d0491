"""Registered definitions: plans with a name and a version, in the system shard."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from headrace.coordinator.core import calendar, matching
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.creation import keep_plan
from headrace.coordinator.core.requests.mutation import (
    PERIOD_MS_MAX,
    Handler,
    elsewhere,
    over,
    too_late,
)
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.triggers import Definition
from headrace.errors import InvalidDefinition
from headrace.events import DefinitionRegistered, DefinitionsDeleted
from headrace.messages import (
    DefinitionView,
    DeleteDefinition,
    GetDefinition,
    ListDefinitions,
    RegisterDefinition,
    subjects,
)
from headrace.plan import check_inputs

_WHAT: Final = "definitions are registered"
_VERSION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
NAME_MAX: Final = 100
"""Of a name: ids of runs are made of it and of a time."""
NAMED_MAX: Final = 10
"""Of the names or versions that there are, in a message."""


def _register(tick: Tick, namespace: str, request: RegisterDefinition) -> Reply:
    state = tick.state
    refused = elsewhere(state, _WHAT) or _unfit(request)
    if refused is not None:
        return refused
    key = subjects.run_key(namespace, request.name)
    digest = keep_plan(tick, namespace, request.plan)
    if isinstance(digest, Refusal):
        return digest
    versions = state.definitions.get(key, {})
    plan = state.program(digest, namespace).plan
    problem = _unfit_schedules(tick, namespace, digest) or matching.problem(plan)
    if problem:
        return Refusal("invalid-definition", problem)
    if request.request_id in state.requests:
        return _again(request, key, digest, versions)
    version = request.version or _next(versions, digest)
    found = versions.get(version)
    if found is not None:
        if found.digest != digest:
            return Refusal(
                "conflict",
                f"version {version} of {request.name} is registered with another content; "
                "give this one another version",
            )
        return _view(key, version, versions)
    late = too_late(tick, request)
    if late is not None:
        return late
    count = sum(map(len, state.definitions.values()))
    if count >= tick.limits.definitions:
        return over("cluster", count, tick.limits.definitions, "registered versions")
    told = _has_schedules(tick, namespace, [digest, *(old.digest for old in versions.values())])
    tick.emit_shard(
        DefinitionRegistered(
            key,
            version,
            digest,
            state.definition_last + 1,
            request.request_id,
            request.not_after_ms,
            request.actor,
            told,
            bool(plan.events),
        )
    )
    return _view(key, version, state.definitions[key])


def _again(
    request: RegisterDefinition, key: str, digest: str, versions: dict[str, Definition]
) -> Reply:
    """Answer a request that is in the log already, whatever was registered since."""
    for version in reversed(versions):
        if versions[version].digest == digest and request.version in ("", version):
            return _view(key, version, versions)
    return Refusal("not-found", f"definition {request.name} was registered, and deleted since")


def _delete(tick: Tick, namespace: str, request: DeleteDefinition) -> Reply:
    state = tick.state
    refused = elsewhere(state, _WHAT)
    if refused is not None:
        return refused
    if request.request_id in state.requests:
        return []
    found = _find(state, namespace, request.name, request.version)
    if isinstance(found, Refusal):
        return found
    late = too_late(tick, request)
    if late is not None:
        return late
    key, versions, version = found
    gone = [version] if request.version else list(versions)
    views = [_view(key, name, versions) for name in gone]
    told = _has_schedules(tick, namespace, [old.digest for old in versions.values()])
    number = state.definition_last + 1 if told else 0
    stamp = (request.request_id, request.not_after_ms, request.actor)
    left = [old for name, old in versions.items() if name not in gone]
    events = bool(left and state.program(left[-1].digest, namespace).plan.events)
    tick.emit_shard(DefinitionsDeleted(key, gone, *stamp, number, events))
    return views


def _get(tick: Tick, namespace: str, request: GetDefinition) -> Reply:
    state = tick.state
    refused = elsewhere(state, _WHAT)
    if refused is not None:
        return refused
    found = _find(state, namespace, request.name, request.version)
    if isinstance(found, Refusal):
        return found
    key, versions, version = found
    view = _view(key, version, versions)
    view.plan = state.plans[view.digest]
    return view


def _list(tick: Tick, namespace: str, request: ListDefinitions) -> Reply:
    state = tick.state
    refused = elsewhere(state, _WHAT)
    if refused is not None:
        return refused
    if request.name:
        found = _find(state, namespace, request.name, "")
        if isinstance(found, Refusal):
            return found
        keys = [found[0]]
    else:
        keys = _keys(state, namespace)
    return [
        _view(key, version, state.definitions[key])
        for key in keys
        for version in reversed(state.definitions[key])
    ]


def _unfit(request: RegisterDefinition) -> Refusal | None:
    if not subjects.valid_name(request.name) or len(request.name) > NAME_MAX:
        rule = f"letters, digits, - and _, at most {NAME_MAX}"
        return Refusal("invalid-request", f"not a name: {request.name!r:.200} ({rule})")
    if request.version and _VERSION.fullmatch(request.version) is None:
        rule = "letters, digits, . + - and _, at most 64"
        return Refusal("invalid-request", f"not a version: {request.version!r:.200} ({rule})")
    return None


def _unfit_schedules(tick: Tick, namespace: str, digest: str) -> str:
    """Return why the schedules of a plan could begin no run; '' if they can."""
    plan = tick.state.program(digest, namespace).plan
    for found in plan.schedules:
        problem = calendar.problem(found.cron, found.timezone)
        if not problem and not (
            0 <= found.jitter_ms <= PERIOD_MS_MAX and 0 <= found.window_ms <= PERIOD_MS_MAX
        ):
            problem = "a jitter or a window is from 0 to 366 days"
        if problem:
            return f"on.schedule: {problem}"
        try:
            check_inputs(plan, found.inputs)
        except InvalidDefinition as error:
            return f"on.schedule: inputs of its runs: {error}"
    return ""


def _has_schedules(tick: Tick, namespace: str, digests: Iterable[str]) -> bool:
    return any(tick.state.program(digest, namespace).plan.schedules for digest in digests)


def _next(versions: dict[str, Definition], digest: str) -> str:
    """Return the version of what is registered without one."""
    if versions:
        newest = next(reversed(versions))
        if versions[newest].digest == digest:
            return newest
    numbers = (int(version) for version in versions if _NUMBER.fullmatch(version))
    return str(max(numbers, default=0) + 1)


def _keys(state: ShardState, namespace: str) -> list[str]:
    prefix = f"{namespace}/"
    return sorted(key for key in state.definitions if key.startswith(prefix))


def _find(
    state: ShardState, namespace: str, name: str, version: str
) -> tuple[str, dict[str, Definition], str] | Refusal:
    """Return (key, versions, version) of what is registered; an empty version is the newest."""
    key = subjects.run_key(namespace, name)
    versions = state.definitions.get(key)
    if versions is None:
        names = [subjects.split_key(known)[1] for known in _keys(state, namespace)]
        hint = _suggestion(name, names)
        return Refusal("not-found", f"no definition {name} in namespace {namespace}{hint}")
    if version and version not in versions:
        hint = _suggestion(version, list(reversed(versions)))
        return Refusal("not-found", f"no version {version} of definition {name}{hint}")
    return key, versions, version or next(reversed(versions))


def _suggestion(wanted: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(wanted, names, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    more = ", …" if len(names) > NAMED_MAX else ""
    return f" (registered: {', '.join(names[:NAMED_MAX]) or 'nothing'}{more})"


def _view(key: str, version: str, versions: dict[str, Definition]) -> DefinitionView:
    namespace, name = subjects.split_key(key)
    found = versions[version]
    return DefinitionView(
        name=name,
        version=version,
        namespace=namespace,
        digest=found.digest,
        number=found.number,
        latest=version == next(reversed(versions)),
        created_ms=found.time_ms,
        actor=found.actor,
    )


HANDLERS: Final[dict[type, Handler]] = {
    RegisterDefinition: _register,
    DeleteDefinition: _delete,
    GetDefinition: _get,
    ListDefinitions: _list,
}
