"""Nodes on their way into a plan: named, not yet numbered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from headrace.language._report import Place, Report, did_you_mean, near_or_all
from headrace.plan import (
    Choice,
    Group,
    Loop,
    Node,
    OnFailure,
    Position,
    Sleep,
    Subworkflow,
    Task,
    Wait,
)
from headrace.plan._validate import NESTING_MAX, NODES_MAX

Struct: TypeAlias = (
    type[Task]
    | type[Group]
    | type[Loop]
    | type[Choice]
    | type[Wait]
    | type[Sleep]
    | type[Subworkflow]
)


_CYCLE_SHOWN_MAX = 20


class Draft:
    """A node with its children; `needs` are names of siblings, with where they stand."""

    __slots__ = (
        "cancels", "children", "fields", "handlers", "name", "needs", "place", "struct",
        "waits_for_all",
    )  # fmt: skip

    def __init__(self, struct: Struct, name: str, place: Place, **fields: Any) -> None:
        self.struct, self.name, self.place = struct, name, place
        self.fields: dict[str, Any] = fields
        self.children: list[Draft] = []
        self.needs: list[tuple[str, Place]] = []
        """In a sequence: of background steps before it."""
        self.cancels: list[tuple[str, Place]] = []
        """Background steps before it that it stops."""
        self.waits_for_all = False
        """It needs all background steps before it."""
        self.handlers: dict[str, Draft] = {}
        """Dormant siblings that it names: `compensate`, `on_failure`, `unknown_handler`."""

    @property
    def asks_for_background(self) -> bool:
        """Whether it is about background steps beside it."""
        return bool(self.needs or self.cancels or self.waits_for_all)

    @property
    def awake(self) -> list[Draft]:
        """Children that begin by themselves."""
        return [child for child in self.children if "dormant" not in child.fields]

    @property
    def in_sequence(self) -> bool:
        """Whether each child needs the one before it."""
        return self.struct is Group and self.fields.get("kind") in ("job", "pipeline")


def number(root: Draft, report: Report) -> tuple[Node, ...]:
    """Return the nodes of the tree below *root*, depth first; notes needs that are wrong.

    Raises `InvalidDefinition` past `NODES_MAX` or `NESTING_MAX`.
    """
    order: list[Draft] = []
    _collect(root, order, 1, report)
    indexes = {id(draft): index for index, draft in enumerate(order)}
    parents = [-1] * len(order)
    needs: list[tuple[int, ...]] = [()] * len(order)
    for index, draft in enumerate(order):
        if not draft.children:
            continue
        for child in draft.children:
            parents[indexes[id(child)]] = index
        if draft.in_sequence:
            _in_order(draft.awake, indexes, needs, report)
        else:
            _resolve_needs(draft.awake, indexes, needs, report)
    sizes = [1] * len(order)
    for index in range(len(order) - 1, 0, -1):
        sizes[parents[index]] += sizes[index]
    return tuple(
        draft.struct(
            name=draft.name,
            parent=parents[index],
            size=sizes[index],
            needs=needs[index],
            position=Position(draft.place.line, draft.place.column),
            **(draft.fields | _named(draft, indexes)),
        )
        for index, draft in enumerate(order)
    )


def _named(draft: Draft, indexes: dict[int, int]) -> dict[str, Any]:
    """Return the fields that name dormant siblings."""
    found: dict[str, Any] = {kind: indexes[id(named)] for kind, named in draft.handlers.items()}
    if "on_failure" in found:
        found["on_failure"] = OnFailure(action="run", handler=found["on_failure"])
    return found


def _collect(draft: Draft, order: list[Draft], depth: int, report: Report) -> None:
    order.append(draft)
    if len(order) > NODES_MAX:
        place = draft.place
        report.fatal(f"too many nodes: NODES_MAX = {NODES_MAX}", place.line, place.column)
    if depth > NESTING_MAX:
        place = draft.place
        report.fatal(f"nested too deeply: NESTING_MAX = {NESTING_MAX}", place.line, place.column)
    for child in draft.children:
        _collect(child, order, depth + 1, report)


def _in_order(
    children: list[Draft],
    indexes: dict[int, int],
    needs: list[tuple[int, ...]],
    report: Report,
) -> None:
    """Let each child of a sequence need the one before it, and what it waits for."""
    before: list[int] = []
    background: dict[str, int] = {}
    for child in children:
        index = indexes[id(child)]
        found = before + (list(background.values()) if child.waits_for_all else [])
        found += [need for need in _known(child.needs, background, report) if need not in found]
        needs[index] = tuple(found)
        if child.cancels:
            child.fields["cancels"] = tuple(_known(child.cancels, background, report))
        if child.fields.get("background"):
            background[child.name.lower()] = index
        else:
            before = [index]


def _known(names: list[tuple[str, Place]], background: dict[str, int], report: Report) -> list[int]:
    """Return the background steps that are named, each once; notes names that are none."""
    found: dict[int, None] = {}
    for name, place in names:
        step = background.get(name.lower())
        if step is None:
            hint = did_you_mean(name, background) or "a step before it with 'background: true'"
            report.add(f"'{name}' is no background step before this one", place, hint)
        else:
            found[step] = None
    return list(found)


def _resolve_needs(
    siblings: list[Draft],
    indexes: dict[int, int],
    needs: list[tuple[int, ...]],
    report: Report,
) -> None:
    if not any(draft.needs for draft in siblings):
        return
    by_name = {draft.name.lower(): draft for draft in siblings}
    edges: dict[str, list[str]] = {}
    for draft in siblings:
        found: dict[str, int] = {}
        for name, place in draft.needs:
            need = by_name.get(name.lower())
            if need is None:
                names = [other.name for other in siblings if other is not draft]
                report.add(f"unknown need '{name}'", place, near_or_all(name, names))
            elif need is draft:
                report.add(f"'{name}' needs itself", place)
            else:
                found[need.name] = indexes[id(need)]
        needs[indexes[id(draft)]] = tuple(found.values())
        edges[draft.name] = list(found)
    while cycle := find_cycle(edges):
        place = by_name[cycle[0].lower()].place
        report.add(f"the needs make a cycle: {_ring(cycle)}", place)
        edges.update({name: [] for name in cycle})


def find_cycle(edges: dict[str, list[str]]) -> list[str]:
    """Return the names of one cycle in *edges* (name to what it needs), [] if there is none."""
    missing = {name: len(needs) for name, needs in edges.items()}
    dependents: dict[str, list[str]] = {}
    for name, needs in edges.items():
        for need in needs:
            dependents.setdefault(need, []).append(name)
    ready = [name for name, count in missing.items() if not count]
    while ready:
        done = ready.pop()
        del missing[done]
        for name in dependents.get(done, ()):
            missing[name] -= 1
            if not missing[name]:
                ready.append(name)
    if not missing:
        return []
    # Every node that is left needs another that is left: following any of them closes a ring.
    path: dict[str, None] = {}
    at = next(iter(missing))
    while at not in path:
        path[at] = None
        at = next(need for need in edges[at] if need in missing)
    walked = list(path)
    return _from_first(walked[walked.index(at) :], edges)


def _ring(cycle: list[str]) -> str:
    shown = [*cycle, cycle[0]]
    if len(cycle) > _CYCLE_SHOWN_MAX:
        shown[_CYCLE_SHOWN_MAX:-1] = [f"… {len(cycle) - _CYCLE_SHOWN_MAX} more …"]
    return " → ".join(shown)


def _from_first(cycle: list[str], edges: Iterable[str]) -> list[str]:
    """Turn *cycle* so that it begins with the node that comes first in the file."""
    members = set(cycle)
    start = cycle.index(next(name for name in edges if name in members))
    return cycle[start:] + cycle[:start]
