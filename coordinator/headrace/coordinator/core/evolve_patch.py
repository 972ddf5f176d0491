"""The fold of a patch: a live run goes on with another plan; whatever is kept by number moves."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TypeVar

from headrace.coordinator.core import status
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.renumbering import Move, Patches, map_of, spans_of
from headrace.coordinator.core.scopes import Scope
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.surroundings import recount
from headrace.events import PlanPatched
from headrace.messages import subjects
from headrace.plan import Group, Loop, same_node

V = TypeVar("V")


def plan_patched(state: ShardState, run: Run, event: PlanPatched) -> None:
    """Fold `PlanPatched`. The plans stay: the history before it is told by the one before."""
    state.remember(event.request_id, event.not_after_ms)
    old, new = run.program, state.program(event.plan, subjects.split_key(run.key)[0])
    state.plan_uses[event.plan] = state.plan_uses.get(event.plan, 0) + 1
    nodes = map_of(event.nodes, old.size)
    moved, scopes = _places(run, nodes, new)
    changed = _changed(run, nodes, new)
    gone = {at: run.path(at) for at in run.due if at < len(moved) and moved[at] < 0}
    wires = {at: run.wire(at) for at in sorted(_named_outside(run))}
    for at in [at for at in run.due if run.status[at] == status.PENDING and at in changed]:
        # It was queued with a limit that may be another now: it is queued again.
        del run.due[at]
    if event.variables is not None:
        run.variables = event.variables
    fresh = _fresh(old, nodes, new)
    spans = spans_of(moved)
    _move_arrays(run, spans, scopes, new)
    _move_facts(run, moved)
    run.program = new
    run.scopes, run.scope_bases = scopes, [scope.base for scope in scopes]
    patches = run.patches or Patches()
    patches.moves.append(Move(run.events, old, spans, gone))
    patches.wired = _keys(wires, moved)
    run.patches = patches
    _recount(state, run, fresh)
    if state.leading:
        # Its entries have old numbers; whoever leads derives the new ones from the state.
        kept = [entry for entry in state.agenda if entry[0] is not run]
        state.agenda.clear()
        state.agenda.extend(kept)


def _places(run: Run, nodes: list[int], new: Program) -> tuple[list[int], list[Scope]]:
    """Return (old instance -> new one or -1, the iterations that stay)."""
    old = run.program
    moved = nodes[:]
    scopes: list[Scope] = []
    following = new.size
    for scope in run.scopes:
        size = old.nodes[scope.body].size
        loop, body = moved[scope.loop], nodes[scope.body]
        if loop < 0 or body < 0:
            moved += [-1] * size
            continue
        shift = following - body
        inside = nodes[scope.body : scope.body + size]
        moved += [at + shift if at >= 0 else -1 for at in inside]
        scopes.append(Scope(following, body, loop, scope.index, scope.item, scope.label))
        following += new.nodes[body].size
    return moved, scopes


def _changed(run: Run, nodes: list[int], new: Program) -> set[int]:
    """Return those instances with a time whose node says something else now."""
    found: set[int] = set()
    for instance in run.due:
        node = run.locate(instance)[0]
        at = nodes[node]
        if at < 0 or not same_node(run.program.nodes[node], new.nodes[at], nodes):
            found.add(instance)
    return found


def _named_outside(run: Run) -> set[int]:
    """Return the instances that workers and other shards know by number."""
    found = {*run.tokens, *run.doomed}
    if run.family is not None:
        found.update(run.family.children)
    return found


def _fresh(old: Program, nodes: list[int], new: Program) -> list[int]:
    """Return the nodes of the new plan that wait for others than before, or are new."""
    before = {at: node for node, at in enumerate(nodes) if at >= 0}
    found: list[int] = []
    for at, after in enumerate(new.nodes):
        node = before.get(at)
        if node is None:
            found.append(at)
            continue
        needs = tuple(nodes[need] for need in old.nodes[node].needs)
        if needs != after.needs or old.rule.get(node) != new.rule.get(at):
            found.append(at)
    return found


def _move_arrays(
    run: Run, spans: list[tuple[int, int, int]], scopes: list[Scope], new: Program
) -> None:
    """Give each instance its place in what is kept by number; new ones have not begun."""
    statuses, waiting = bytearray(new.status_template), new.waiting_template[:]
    for scope in scopes:
        fresh, needed = new.body_template(scope.body)
        statuses += fresh
        waiting += needed
    total = len(statuses)
    attempt, taint = array("H", bytes(2 * total)), bytearray(total)
    for first, count, to in spans:
        statuses[to : to + count] = run.status[first : first + count]
        waiting[to : to + count] = run.waiting[first : first + count]
        attempt[to : to + count] = run.attempt[first : first + count]
        taint[to : to + count] = run.taint[first : first + count]
    for scope in scopes:
        if statuses[scope.base] == status.TEMPLATE:
            size = new.nodes[scope.body].size
            statuses[scope.base : scope.base + size] = bytes([status.TEMPLATE]) * size
    run.status, run.waiting, run.attempt, run.taint = statuses, waiting, attempt, taint


def _move_facts(run: Run, moved: list[int]) -> None:
    """Move what only some instances have."""
    run.tokens = _keys(run.tokens, moved)
    run.outputs = _keys(run.outputs, moved)
    run.errors = _keys(run.errors, moved)
    run.due = _keys(run.due, moved)
    run.first_ms = _keys(run.first_ms, moved)
    run.losses = _keys(run.losses, moved)
    run.uncounted = _keys(run.uncounted, moved)
    run.claims = _keys(run.claims, moved)
    run.waits = _keys(run.waits, moved)
    run.counts = _keys(run.counts, moved)
    run.node_keys = _keys(run.node_keys, moved)
    own = run.gates.pop(-1, None)
    run.gates = _keys(run.gates, moved)
    if own is not None:
        run.gates[-1] = own
    run.tolerated = set(_all(run.tolerated, moved))
    run.doomed = set(_all(run.doomed, moved))
    run.detached = set(_all(run.detached, moved))
    run.jobs = _keys(run.jobs, moved)
    for job in run.jobs.values():
        job.first = moved[job.first] if job.first >= 0 else -1
    run.iterations = {
        loop: list(_all(bases, moved)) for loop, bases in _keys(run.iterations, moved).items()
    }
    if run.family is not None:
        run.family.children = _keys(run.family.children, moved)
        run.family.awaited = set(_all(run.family.awaited, moved))
        stopping = run.family.stopping
        run.family.stopping = {holder: moved[at] for holder, at in stopping.items()}
    _move_faults(run, moved)


def _move_faults(run: Run, moved: list[int]) -> None:
    """Move what failures have called for."""
    for facts in (run.held, run.handlers):
        for instance, other in facts.items():
            facts[instance] = moved[other] if other >= 0 else other
    run.held, run.handlers = _keys(run.held, moved), _keys(run.handlers, moved)
    run.sticky = _keys(run.sticky, moved)
    run.stopped = {
        moved[step]: moved[by]
        for step, by in run.stopped.items()
        if moved[step] >= 0 and moved[by] >= 0
    }
    run.undo = dict.fromkeys(_all(run.undo, moved))
    run.rounds = _keys(run.rounds, moved)
    run.uncompensated = list(_all(run.uncompensated, moved))
    run.sagas = _keys(run.sagas, moved)
    for saga in run.sagas.values():
        saga.cause = moved[saga.cause] if saga.cause >= 0 else -1
        saga.current = moved[saga.current] if saga.current >= 0 else -1


def _keys(facts: dict[int, V], moved: list[int]) -> dict[int, V]:
    return {moved[at]: fact for at, fact in facts.items() if moved[at] >= 0}


def _all(instances: Iterable[int], moved: list[int]) -> Iterator[int]:
    return (moved[at] for at in instances if moved[at] >= 0)


def _recount(state: ShardState, run: Run, fresh: list[int]) -> None:
    """Count again the children of what runs, and what *fresh* nodes still wait for."""
    program = run.program
    for instance, counts in run.counts.items():
        node = run.locate(instance)[0]
        found = program.nodes[node]
        if isinstance(found, Loop):
            continue
        counts.total = len(program.children[node])
        if isinstance(found, Group) and found.join.kind != "all":
            counts.needed = found.join.needed(counts.total)
    for node in fresh:
        if node:
            recount(state, run, node, node)
    for scope in run.scopes:
        last = scope.body + program.nodes[scope.body].size
        for node in fresh:
            if scope.body < node < last:
                recount(state, run, node, node + scope.base - scope.body)
