"""What people see of a run's steps: one view a node, containers included. Pure reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.facts import Holder
from headrace.coordinator.core.journal_views import entry_views
from headrace.coordinator.core.nodes import KINDS
from headrace.coordinator.core.outcomes import conclusion, outcome
from headrace.coordinator.core.pieces import Piece, Pieces, Sink
from headrace.coordinator.core.scopes import Scope
from headrace.coordinator.core.since import Times, timing
from headrace.coordinator.core.state import Run
from headrace.errors import HeadraceError
from headrace.expressions import resolve, to_string
from headrace.messages import StepView
from headrace.plan import Node, Task, is_expression

_decode = msgspec.msgpack.Decoder().decode
_UNKNOWN_TIMES = Times(0, 0)


def viewing_steps(
    run: Run,
    holders: Mapping[tuple[str, int], Holder],
    segments: Iterable[bytes],
    views: Sink[StepView],
) -> Pieces[None]:
    """Put the views into *views* in the order of the plan; *run* must not change meanwhile.

    *holders*, *segments*: see `views.run_view`.
    """
    times = yield from timing(run, segments)
    piece = Piece()
    for instance in plan_order(run):
        if run.status[instance] != status.TEMPLATE:
            views.append(_view(run, instance, holders, times.pop(instance, _UNKNOWN_TIMES)))
        if piece.full(len(run.outputs.get(instance, b""))):
            yield
    for view in entry_views(run):
        views.append(view)
        if piece.full():
            yield


def _view(
    run: Run, instance: int, holders: Mapping[tuple[str, int], Holder], times: Times
) -> StepView:
    node, shift, _ = run.locate(instance)
    found = run.program.nodes[node]
    error = run.errors.get(instance)
    outputs = run.outputs.get(instance)
    view = StepView(
        path=run.path(instance),
        name=_name(run, instance, found),
        kind=KINDS[run.program.kind[node]].name,
        state=_shown_state(run, instance, holders),
        uses=found.uses if isinstance(found, Task) else "",
        attempt=run.attempt[instance],
        outputs=None if outputs is None else _decode(outputs),
        # An error of an attempt before the one that succeeded is history, not news.
        error=f"{error.type}: {error.message}"
        if error is not None and run.status[instance] != status.COMPLETED
        else "",
        needs=[run.path(need + shift) for need in found.needs],
        index=instance,
    )
    view.started_ms, view.finished_ms, view.reason = times.started_ms, times.ended_ms, times.reason
    holder = holders.get((run.key, run.wire(instance)))
    view.worker = times.worker if holder is None else holder.worker
    if holder is not None and run.status[instance] == status.DISPATCHED:
        view.details = holder.details
    view.outcome, view.conclusion = outcome(run, instance), conclusion(run, instance)
    if times.extra is not None:
        view.annotations, view.summary = times.extra.annotations, times.extra.summary
    if run.family is not None:
        view.child = run.family.children.get(instance, "")
    return view


def _name(run: Run, instance: int, node: Node) -> str:
    """Return the name to show; as it is written where it cannot be evaluated (yet, or here)."""
    if not is_expression(node.title):
        return node.title or node.name
    try:
        return to_string(resolve(node.title, Contexts(run, instance), functions(run, instance)))
    except HeadraceError:
        return node.title


def plan_order(run: Run) -> Iterator[int]:
    """Yield all instances but the root, a loop's iterations behind the loop itself."""
    loops: dict[int, list[Scope]] = {}
    for scope in run.scopes:
        loops.setdefault(scope.loop, []).append(scope)
    for scopes in loops.values():
        scopes.sort(key=lambda scope: scope.index, reverse=True)
    nodes = run.program.nodes
    left = [(1, run.program.size)]
    while left:
        first, end = left.pop()
        for instance in range(first, end):
            yield instance
            scopes = loops.get(instance, [])
            if scopes:
                left.append((instance + 1, end))
                left += [(s.base, s.base + nodes[s.body].size) for s in scopes]
                break


def _shown_state(run: Run, instance: int, holders: Mapping[tuple[str, int], Holder]) -> str:
    value = run.status[instance]
    if value == status.DISPATCHED and (run.key, run.wire(instance)) in holders:
        return "RUNNING"
    if value == status.PENDING:
        above = run.parent(instance)
        while above >= 0 and run.status[above] == status.PENDING:
            above = run.parent(above)
        if above >= 0 and run.status[above] in (status.SKIPPED, status.CANCELLED):
            return status.NAMES[run.status[above]]
        kind = run.program.kind[run.locate(instance)[0]]
        if kind == kinds.TASK and not run.waiting[instance] and run.may_begin(instance):
            return "READY"
    return status.NAMES[value]
