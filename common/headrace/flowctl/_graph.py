"""Draws a plan as Mermaid, DOT or data. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from headrace.messages import StepView
from headrace.plan import Choice, Group, Loop, Node, Plan, Sleep, Subworkflow, Task, Wait

STATE_FILLS = {
    "COMPLETED": "#c8e6c9",
    "FAILED": "#ffcdd2",
    "CANCELLED": "#ffe0b2",
    "UNKNOWN": "#e1bee7",
    "RUNNING": "#b3e5fc",
    "WAITING": "#fff9c4",
    "SKIPPED": "#eeeeee",
}


_LOUDEST = ("FAILED", "UNKNOWN", "RUNNING", "WAITING", "CANCELLED", "COMPLETED", "SKIPPED")
_ITEM = re.compile(r"\[[^\]]*\]")


def states_of(steps: Iterable[StepView]) -> dict[str, str]:
    """Return path without item marks -> state; of a loop's iterations the loudest counts."""
    found: dict[str, str] = {}
    for step in steps:
        path, state = _ITEM.sub("", step.path), step.state
        if state == "DISPATCHED":
            state = "RUNNING"
        if state not in _LOUDEST:
            continue
        before = found.get(path, state)
        found[path] = min(before, state, key=_LOUDEST.index)
    return found


def edges_of(plan: Plan) -> list[tuple[int, int]]:
    """Return (before, after) for siblings: what `needs` says, and the order of sequences."""
    edges: set[tuple[int, int]] = set()
    last: dict[int, int] = {}
    for index, node in enumerate(plan.nodes):
        edges.update((before, index) for before in node.needs)
        if index == 0:
            continue
        parent = plan.nodes[node.parent]
        if isinstance(parent, Group) and parent.kind in ("job", "pipeline"):
            if node.parent in last and not node.needs:
                edges.add((last[node.parent], index))
            last[node.parent] = index
    return sorted(edges)


def kind_of(node: Node) -> str:
    """Return what a node is called."""
    if isinstance(node, Group | Loop):
        return node.kind
    names: dict[type, str] = {
        Task: "task",
        Choice: "choice",
        Wait: "wait",
        Sleep: "sleep",
        Subworkflow: "subworkflow",
    }
    return names[type(node)]


def as_data(plan: Plan) -> dict[str, Any]:
    """Return the graph as JSON."""
    return {
        "workflow": plan.name,
        "nodes": [
            {
                "id": index,
                "name": node.name,
                "title": node.title,
                "kind": kind_of(node),
                "uses": node.uses if isinstance(node, Task) else "",
                "parent": node.parent if index else None,
                "if": node.condition,
                "line": node.position.line,
            }
            for index, node in enumerate(plan.nodes)
        ],
        "edges": [{"from": before, "to": after} for before, after in edges_of(plan)],
    }


def as_mermaid(plan: Plan, states: dict[str, str] | None = None) -> str:
    """Return a Mermaid flowchart; *states* (name path -> step state) colours it."""
    lines = ["flowchart TD"]
    states = states or {}
    paths = name_paths(plan)
    open_ends: list[int] = []
    for index, node in enumerate(plan.nodes):
        while open_ends and index >= open_ends[-1]:
            open_ends.pop()
            lines.append("  " * (len(open_ends) + 1) + "end")
        if index == 0:
            continue
        pad = "  " * (len(open_ends) + 1)
        if node.size > 1:
            lines.append(f'{pad}subgraph n{index}["{_mermaid(_label(node))}"]')
            open_ends.append(index + node.size)
            continue
        left, right = {"wait": "{{}}", "sleep": "()"}.get(kind_of(node), "[]"), ""
        half = len(left) // 2
        left, right = left[:half], left[half:]
        fill = states.get(paths[index], "")
        mark = f":::{fill}" if fill in STATE_FILLS else ""
        lines.append(f'{pad}n{index}{left}"{_mermaid(_label(node))}"{right}{mark}')
    while open_ends:
        open_ends.pop()
        lines.append("  " * (len(open_ends) + 1) + "end")
    lines += [f"  n{before} --> n{after}" for before, after in edges_of(plan)]
    used = {states.get(path, "") for path in paths}
    lines += [
        f"  classDef {state} fill:{fill}" for state, fill in STATE_FILLS.items() if state in used
    ]
    return "\n".join(lines) + "\n"


def as_dot(plan: Plan, states: dict[str, str] | None = None) -> str:
    """Return a Graphviz digraph; groups are clusters."""
    states = states or {}
    paths = name_paths(plan)
    lines = [f"digraph {_dot(plan.name)} {{", "  compound=true;", "  node [shape=box];"]
    open_ends: list[int] = []
    for index, node in enumerate(plan.nodes):
        while open_ends and index >= open_ends[-1]:
            open_ends.pop()
            lines.append("  " * (len(open_ends) + 1) + "}")
        if index == 0:
            continue
        pad = "  " * (len(open_ends) + 1)
        if node.size > 1:
            lines.append(f"{pad}subgraph cluster_{index} {{ label={_dot(_label(node))};")
            open_ends.append(index + node.size)
            continue
        fill = STATE_FILLS.get(states.get(paths[index], ""), "")
        style = f', style=filled, fillcolor="{fill}"' if fill else ""
        lines.append(f"{pad}n{index} [label={_dot(_label(node))}{style}];")
    while open_ends:
        open_ends.pop()
        lines.append("  " * (len(open_ends) + 1) + "}")
    for before, after in edges_of(plan):
        tail, head = _last_leaf(plan, before), _first_leaf(plan, after)
        marks = [f"ltail=cluster_{before}"] if tail != before else []
        marks += [f"lhead=cluster_{after}"] if head != after else []
        lines.append(f"  n{tail} -> n{head}" + (f" [{', '.join(marks)}]" if marks else "") + ";")
    return "\n".join([*lines, "}"]) + "\n"


def name_paths(plan: Plan) -> list[str]:
    """Return each node's path as its steps bear it; the body of a loop stands at the loop's."""
    paths = [""]
    for node in plan.nodes[1:]:
        above = paths[node.parent]
        if isinstance(plan.nodes[node.parent], Loop):
            paths.append(above)
        else:
            paths.append(f"{above}/{node.name}" if above else node.name)
    return paths


def _first_leaf(plan: Plan, index: int) -> int:
    while plan.nodes[index].size > 1:
        index += 1
    return index


def _last_leaf(plan: Plan, index: int) -> int:
    return index + plan.nodes[index].size - 1


def _label(node: Node) -> str:
    text = node.title or node.name
    if isinstance(node, Loop):
        return f"{text} ({node.kind})"
    if isinstance(node, Group) and node.kind == "parallel":
        join = node.join.kind if node.join.kind in ("all", "any") else str(node.join.value)
        return f"{text} (join {join}{'%' if node.join.kind == 'percent' else ''})"
    return text


def _mermaid(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("\n", " ").replace("<", "#lt;")


def _dot(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
