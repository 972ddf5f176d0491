"""Settings of namespaces: decided in the system shard, which tells all others."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.fairness import weight_of
from headrace.coordinator.core.requests.mutation import Handler, elsewhere, seen, too_late
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.tick import Tick
from headrace.events import NamespaceChanged
from headrace.messages import GetNamespace, NamespaceView, SetNamespace
from headrace.plan import FAIRNESS_WEIGHT_MAX, FAIRNESS_WEIGHT_MIN

_WHAT: Final = "settings of namespaces are"


def _set(tick: Tick, namespace: str, request: SetNamespace) -> Reply:
    state = tick.state
    refused = elsewhere(state, _WHAT)
    if refused is not None:
        return refused
    if request.request_id in state.requests:
        return _view(state, namespace)
    late = too_late(tick, request)
    if late is not None:
        return late
    if not FAIRNESS_WEIGHT_MIN <= request.weight <= FAIRNESS_WEIGHT_MAX:
        limits = f"{FAIRNESS_WEIGHT_MIN:g} to {FAIRNESS_WEIGHT_MAX:g}"
        return Refusal("invalid-request", f"a weight is from {limits}, not {request.weight:g}")
    if _view(state, namespace).weight == request.weight:
        seen(tick, request)
        return _view(state, namespace)
    known = state.namespaces.get(namespace)
    number = known[1] + 1 if known is not None else 1
    stamp = (request.request_id, request.not_after_ms, request.actor)
    tick.emit_shard(NamespaceChanged(namespace, request.weight, number, *stamp))
    return _view(state, namespace)


def _get(tick: Tick, namespace: str, request: GetNamespace) -> Reply:
    return elsewhere(tick.state, _WHAT) or _view(tick.state, namespace)


def _view(state: ShardState, namespace: str) -> NamespaceView:
    return NamespaceView(name=namespace, weight=weight_of(state, namespace))


HANDLERS: Final[dict[type, Handler]] = {SetNamespace: _set, GetNamespace: _get}
