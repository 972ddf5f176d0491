"""Variables of namespaces: decided in the system shard, which tells all others."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.requests.mutation import Handler, elsewhere, over, seen, too_late
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.variables import (
    NAME,
    RESERVED,
    TOTAL_BYTES_MAX,
    VALUE_BYTES_MAX,
    of_namespace,
)
from headrace.events import VariablesChanged
from headrace.messages import GetVariables, SetVariable, VariablesView

_WHAT: Final = "variables of namespaces are"


def _set(tick: Tick, namespace: str, request: SetVariable) -> Reply:
    state = tick.state
    refused = elsewhere(state, _WHAT)
    if refused is not None:
        return refused
    if request.request_id in state.requests:
        return _view(state, namespace)
    late = too_late(tick, request) or _unfit(request)
    if late is not None:
        return late
    known = of_namespace(state, namespace)
    same = {name for name in known if name.lower() == request.name.lower()}
    if request.value is None and not same:
        return Refusal("not-found", f"no variable {request.name} in namespace {namespace}")
    values = {name: value for name, value in known.items() if name not in same}
    if request.value is not None:
        values[request.name] = request.value
    total = sum(len(name) + len(value.encode()) for name, value in values.items())
    if total > TOTAL_BYTES_MAX:
        return over("namespace's variables", total, TOTAL_BYTES_MAX)
    if values == known:
        seen(tick, request)
        return _view(state, namespace)
    number = state.variables[namespace][0] + 1 if namespace in state.variables else 1
    stamp = (request.request_id, request.not_after_ms, request.actor)
    tick.emit_shard(
        VariablesChanged(namespace, dict(sorted(values.items())), number, request.name, *stamp)
    )
    return _view(state, namespace)


def _unfit(request: SetVariable) -> Refusal | None:
    if NAME.fullmatch(request.name) is None or request.name.lower().startswith(RESERVED):
        what = "letters, digits and _, not beginning with a digit or GITHUB_"
        return Refusal("invalid-request", f"not a variable's name: {request.name!r:.200} ({what})")
    size = len((request.value or "").encode())
    if size > VALUE_BYTES_MAX:
        return over(f"variable {request.name}", size, VALUE_BYTES_MAX)
    return None


def _get(tick: Tick, namespace: str, request: GetVariables) -> Reply:
    return elsewhere(tick.state, _WHAT) or _view(tick.state, namespace)


def _view(state: ShardState, namespace: str) -> VariablesView:
    return VariablesView(namespace=namespace, values=dict(of_namespace(state, namespace)))


HANDLERS: Final[dict[type, Handler]] = {SetVariable: _set, GetVariables: _get}
