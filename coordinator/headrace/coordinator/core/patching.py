"""Whether another plan fits a live run, and what it would change. Reads only.

What has begun or ended must say the same in the new plan; below what has ended nothing may come or
go. Everything else may.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from headrace.coordinator.core import status
from headrace.coordinator.core.program import CHOICE, Program
from headrace.coordinator.core.state import Run
from headrace.plan import (
    Group,
    match_nodes,
    node_facts,
    node_paths,
    plan_facts,
    same_node,
)

FREE: Final = frozenset(("description", "version", "labels", "schedules", "events", "secrets"))
"""What of a whole plan may be another: it says nothing about a run that has begun."""
WHOLE: Final = "(workflow)"
CONFLICTS_MAX: Final = 20
"""Told of one refused patch."""
_NOT_BEGUN: Final = (status.PENDING, status.TEMPLATE)
_BEGUN, _SEALED = 1, 2
"""What a node must be: as it was; so with all that is below it."""


class Fit(NamedTuple):
    """What a new plan would do to a run."""

    nodes: list[int]
    """For each node of the run's plan the one of the new plan, or -1."""
    conflicts: list[str]
    """Why it does not fit, in words; none: it does."""
    added: list[str]
    removed: list[str]
    changed: list[str]
    begun: int
    instances: int
    """That the run would have."""


def fit(run: Run, new: Program) -> Fit:
    """Look what becomes of *run* when it goes on with *new*: O(instances)."""
    old = run.program
    nodes = match_nodes(old.plan, new.plan)
    bound = _bound(run)
    conflicts = _whole(old, new)
    paths = node_paths(old.plan), node_paths(new.plan)
    kept = set(nodes)
    removed: list[str] = []
    changed: list[str] = []
    for node, at in enumerate(nodes):
        if at >= 0 and same_node(old.nodes[node], new.nodes[at], nodes):
            continue
        if node in bound:
            conflicts.append(_conflict(run, new, node, at, bound[node], paths))
        elif at < 0:
            removed.append(paths[0][node])
        else:
            changed.append(paths[1][at] or WHOLE)
    added = [at for at in range(1, new.size) if at not in kept]
    closed = {nodes[node]: node for node, how in bound.items() if how[0] & _SEALED}
    for at in added:
        if new.parent[at] in closed:
            node = closed[new.parent[at]]
            conflicts.append(_misplaced(run, new, at, node, bound[node], paths))
    return Fit(
        nodes, conflicts, [paths[1][at] for at in added], removed, changed, len(bound),
        _instances(run, nodes, new),
    )  # fmt: skip


def bound_paths(run: Run) -> frozenset[str]:
    """Return the paths of the nodes that must stay as they are."""
    paths = node_paths(run.program.plan)
    return frozenset(paths[node] for node in _bound(run))


def _bound(run: Run) -> dict[int, tuple[int, int]]:
    """Return node -> (how far it is bound, an instance that binds it)."""
    kind, sagas, handlers = run.program.kind, run.sagas, run.handlers
    sealed = bytearray(len(run.status))
    bound: dict[int, tuple[int, int]] = {}
    for instance, value in enumerate(run.status):
        above = run.parent(instance)
        ended = status.is_final(value) or instance in sagas or instance in handlers
        if ended or (above >= 0 and sealed[above]):
            sealed[instance] = 1
        elif value in _NOT_BEGUN and not run.attempt[instance] and instance not in run.gates:
            continue
        node = run.locate(instance)[0]
        how = _SEALED if sealed[instance] or kind[node] == CHOICE else 0
        known = bound.get(node)
        if known is None or how > known[0] & _SEALED:
            bound[node] = (_BEGUN | how, instance)
    return bound


def _whole(old: Program, new: Program) -> list[str]:
    """Return what is wrong with what the new plan says beside its nodes."""
    before, after = plan_facts(old.plan), plan_facts(new.plan)
    file = new.plan.file or "the new definition"
    return [
        f"{file}: `{name}` of the workflow is another; a patch replaces nodes only"
        for name in sorted({*before, *after} - FREE)
        if before.get(name) != after.get(name)
    ]


def _conflict(
    run: Run,
    new: Program,
    node: int,
    at: int,
    bound: tuple[int, int],
    paths: tuple[list[str], list[str]],
) -> str:
    state = _state(run, bound[1])
    path = run.path(bound[1]) or WHOLE
    if at < 0:
        place = _place(run.program, node, "the old definition")
        return f"{path} {state} and is not in the new definition (it stands at {place})"
    before = node_facts(run.program.nodes[node], paths[0])
    after = node_facts(new.nodes[at], paths[1])
    keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    return f"{_place(new, at)}: {path} {state} and cannot change: {', '.join(keys)}"


def _misplaced(
    run: Run,
    new: Program,
    at: int,
    above: int,
    bound: tuple[int, int],
    paths: tuple[list[str], list[str]],
) -> str:
    where = run.path(bound[1]) or WHOLE
    state = _state(run, bound[1])
    if run.program.kind[above] == CHOICE and not status.is_final(run.status[bound[1]]):
        state = "has chosen its branch"
    return f"{_place(new, at)}: {paths[1][at]} is new, but {where} {state}: nothing can be added"


def _state(run: Run, instance: int) -> str:
    value = run.status[instance]
    if instance in run.sagas:
        return "is being compensated"
    return f"has {'ended' if status.is_final(value) else 'begun'} ({status.NAMES[value]})"


def _place(program: Program, node: int, unnamed: str = "the new definition") -> str:
    """Return ``file:line:column`` of a node, of the file that it stands in."""
    plan, at = program.plan, node
    position = plan.nodes[node].position
    file = plan.file
    while at >= 0:
        found = plan.nodes[at]
        if at != node and isinstance(found, Group) and found.call is not None:
            file = found.call.file
            break
        at = found.parent
    place = file or unnamed
    return f"{place}:{position.line}:{position.column}" if position.line else place


def _instances(run: Run, nodes: list[int], new: Program) -> int:
    bodies = (nodes[scope.body] for scope in run.scopes)
    return new.size + sum(new.nodes[body].size for body in bodies if body >= 0)
