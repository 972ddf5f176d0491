"""A plan as a graph: levels, edges, and of a run the states and times of its steps.

Nodes are named by their paths. The iterations of a loop share one path: ``build[*]/test``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from headrace.plan import (
    Choice,
    Group,
    Loop,
    Node,
    Plan,
    Sleep,
    Subworkflow,
    Task,
    Wait,
    node_paths,
)

_INDEX = re.compile(r"\[[^\]]*\]")
_KINDS: dict[type, str] = {
    Task: "task", Group: "group", Loop: "loop", Choice: "choice", Wait: "wait", Sleep: "sleep",
    Subworkflow: "subworkflow",
}  # fmt: skip
WORST_FIRST = (
    "FAILED", "UNKNOWN", "CANCELLED", "RUNNING", "DISPATCHED", "WAITING", "READY", "PENDING",
    "COMPLETED", "SKIPPED",
)  # fmt: skip


class GraphNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of a graph."""

    path: str
    kind: str
    """`task`, `wait`, `sleep`, `choice`, `loop`, `matrix`, or a group's own kind."""
    title: str = ""
    uses: str = ""
    level: int = -1
    """Position in the order of execution, from 0; -1 for a node with others inside."""
    parent: str = ""
    state: str = ""
    """Of a run; where a path stands for several iterations, each state with its number."""
    name: str = ""
    detail: str = ""
    """What is not in the name: a condition, a join, how often."""
    line: int = 0
    started_ms: int = 0
    """Since the epoch; the first of the iterations."""
    duration_ms: int = 0
    """From the first start to the last end; 0 while one has not ended."""


class StepTimes(msgspec.Struct, frozen=True, array_like=True):
    """When a step of a run began and ended, in ms since the epoch; 0: not yet."""

    started_ms: int = 0
    finished_ms: int = 0


class PlanGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's nodes in the file's order, leaves by level, and (from, to) for each need."""

    name: str
    nodes: list[GraphNode]
    levels: list[list[str]]
    edges: list[tuple[str, str]]
    calls: list[tuple[str, str, str]] = []
    """(node, what is run for it, when): `compensate`, `on-failure`, `on-unknown`."""


def graph(
    plan: Plan,
    states: Mapping[str, str] | None = None,
    times: Mapping[str, StepTimes] | None = None,
) -> PlanGraph:
    """Return the graph of *plan*; *states* and *times* are those of a run's steps, by path."""
    paths = node_paths(plan)
    levels = _levels(plan)
    shown = _states(states or {})
    spans = _spans(times or {})
    nodes = [
        GraphNode(
            path=paths[index],
            kind=_kind(node),
            title=node.title,
            uses=_uses(node),
            level=levels[index] if node.size == 1 else -1,
            parent=paths[node.parent],
            state=shown.get(paths[index], ""),
            name=node.name,
            detail=_detail(node),
            line=node.position.line,
            started_ms=spans.get(paths[index], _NO_SPAN)[0],
            duration_ms=spans.get(paths[index], _NO_SPAN)[1],
        )
        for index, node in enumerate(plan.nodes)
        if index
    ]
    by_level: list[list[str]] = [[] for _ in range(max((n.level for n in nodes), default=-1) + 1)]
    for node in nodes:
        if node.level >= 0:
            by_level[node.level].append(node.path)
    edges = [
        (paths[need], paths[index])
        for index, found in enumerate(plan.nodes)
        for need in found.needs
    ]
    return PlanGraph(
        name=plan.name,
        nodes=nodes,
        levels=[level for level in by_level if level],
        edges=edges,
        calls=[
            (paths[index], paths[called], when)
            for index, found in enumerate(plan.nodes)
            for called, when in _calls(found)
        ],
    )


def _calls(node: Node) -> Iterator[tuple[int, str]]:
    """Yield the nodes that are run for *node* when something has become of it."""
    if isinstance(node, Task):
        if node.compensate >= 0:
            yield node.compensate, "compensate"
        if node.unknown_handler >= 0:
            yield node.unknown_handler, "on-unknown"
    if node.on_failure is not None and node.on_failure.handler >= 0:
        yield node.on_failure.handler, "on-failure"


def _uses(node: Node) -> str:
    if isinstance(node, Subworkflow):
        return node.source
    return node.uses if isinstance(node, Task) else ""


def _kind(node: Node) -> str:
    if isinstance(node, Group):
        return node.kind
    if isinstance(node, Loop):
        return node.kind if node.kind in ("matrix", "broadcast") else "loop"
    if isinstance(node, Wait) and node.approval:
        return "approval"
    return _KINDS[type(node)]


def _detail(node: Node) -> str:
    """Return what a picture says of a node beside its name."""
    found = [f"if {node.condition}"] if node.condition else []
    if node.trigger_rule:
        found.append(node.trigger_rule.replace("_", " "))
    if isinstance(node, Loop):
        found.append(_repetition(node))
    if isinstance(node, Group | Loop) and node.join.kind != "all":
        needed = {"any": "any", "count": str(node.join.value), "percent": f"{node.join.value}%"}
        found.append(f"join {needed[node.join.kind]}, losers {node.join.losers}")
    if isinstance(node, Group) and node.cancels:
        found.append("cancels background steps")
    if isinstance(node, Wait):
        found.append(f"signal {node.signal}")
    if isinstance(node, Sleep):
        length = f"{node.duration_ms} ms" if isinstance(node.duration_ms, int) else node.duration_ms
        found.append(f"until {node.until}" if node.until else str(length))
    if isinstance(node, Subworkflow) and node.detached:
        found.append("detached")
    if isinstance(node, Task | Group):
        found += _gates(node)
    return "; ".join(found)


def _gates(node: Task | Group) -> list[str]:
    """Return what must be free before it begins."""
    found = [f"lock {node.lock.name}"] if node.lock is not None else []
    rate = node.rate_limit
    if rate is not None:
        found.append(f"{rate.limit} per {rate.per_ms / 1000:g} s ({rate.key})")
    if isinstance(node, Task) and node.cache is not None:
        found.append(f"cached by {node.cache.key}")
    return found


def _repetition(loop: Loop) -> str:
    if loop.kind == "repeat":
        words = [f"{loop.times} times"] if loop.times is not None else []
        words += [f"while {loop.before}"] if loop.before else []
        words += [f"until {loop.after}"] if loop.after else []
        return ", ".join(words)
    if loop.kind == "broadcast":
        return "on every worker of its group"
    if isinstance(loop.items, str):
        return f"for each of {loop.items}"
    if loop.kind == "matrix":
        return " x ".join(str(axis) for axis in loop.items)
    return f"for each of {len(loop.items)}"


_NO_SPAN = (0, 0)


def _spans(times: Mapping[str, StepTimes]) -> dict[str, tuple[int, int]]:
    """Return (begin, duration) by path, over all iterations of a loop."""
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    open_ends: set[str] = set()
    for given, span in times.items():
        if not span.started_ms:
            continue
        path = _INDEX.sub("[*]", given)
        begins[path] = min(begins.get(path, span.started_ms), span.started_ms)
        ends[path] = max(ends.get(path, 0), span.finished_ms)
        if not span.finished_ms:
            open_ends.add(path)
    return {
        path: (begin, 0 if path in open_ends else max(0, ends[path] - begin))
        for path, begin in begins.items()
    }


def _states(states: Mapping[str, str]) -> dict[str, str]:
    """Return the states by path, those of a loop's iterations counted together."""
    counts: dict[str, Counter[str]] = {}
    for path, state in states.items():
        counts.setdefault(_INDEX.sub("[*]", path), Counter())[state] += 1
    return {
        path: next(iter(counter))
        if len(counter) == 1
        else ", ".join(f"{counter[state]} {state}" for state in _ordered(counter))
        for path, counter in counts.items()
    }


def _ordered(counter: Counter[str]) -> list[str]:
    known = [state for state in WORST_FIRST if state in counter]
    return known + sorted(counter.keys() - set(known))


def _levels(plan: Plan) -> list[int]:
    """Return for each node the level on which it begins."""
    begins = [0] * len(plan.nodes)
    children: list[list[int]] = [[] for _ in plan.nodes]
    for index, node in enumerate(plan.nodes):
        if node.parent >= 0:
            children[node.parent].append(index)

    def place(index: int, begin: int) -> int:
        """Set the level of *index* and all below it; return the first level behind them."""
        begins[index] = begin
        behind: dict[int, int] = {}
        for child in _in_order(plan, children[index]):
            start = max((behind[need] for need in plan.nodes[child].needs), default=begin)
            behind[child] = place(child, start)
        return max(behind.values(), default=begin + 1)

    place(0, 0)
    return begins


def _in_order(plan: Plan, siblings: list[int]) -> Iterator[int]:
    """Yield *siblings*, each behind those that it needs."""
    missing = {index: len(plan.nodes[index].needs) for index in siblings}
    dependents: dict[int, list[int]] = {index: [] for index in siblings}
    for index in siblings:
        for need in plan.nodes[index].needs:
            dependents[need].append(index)
    ready = [index for index in reversed(siblings) if not missing[index]]
    while ready:
        index = ready.pop()
        yield index
        for dependent in dependents[index]:
            missing[dependent] -= 1
            if not missing[dependent]:
                ready.append(dependent)
