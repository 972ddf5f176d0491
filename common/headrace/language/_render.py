"""A plan as a graph: levels, edges, and pictures of it in Mermaid, DOT, JSON and YAML.

Nodes are named by their paths. The iterations of a loop share one path: ``build[*]/test``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec
import yaml

from headrace.plan import Choice, Group, Loop, Node, Plan, Sleep, Subworkflow, Task, Wait

Format = Literal["mermaid", "dot", "json", "yaml"]

_INDEX = re.compile(r"\[[^\]]*\]")
_KINDS: dict[type, str] = {
    Task: "task", Group: "group", Loop: "loop", Choice: "choice", Wait: "wait", Sleep: "sleep",
    Subworkflow: "subworkflow",
}  # fmt: skip
_WORST_FIRST = (
    "FAILED", "UNKNOWN", "CANCELLED", "RUNNING", "DISPATCHED", "WAITING", "READY", "PENDING",
    "COMPLETED", "SKIPPED",
)  # fmt: skip
_COLOURS = {
    "FAILED": "#f8b4b4", "UNKNOWN": "#f5c77e", "CANCELLED": "#d4d4d4", "RUNNING": "#a5c8ff",
    "DISPATCHED": "#c7dcff", "WAITING": "#fdf3b0", "READY": "#e6f0ff", "PENDING": "#ffffff",
    "COMPLETED": "#b7e4c7", "SKIPPED": "#eeeeee",
}  # fmt: skip


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


class PlanGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's nodes in the file's order, leaves by level, and (from, to) for each need."""

    name: str
    nodes: list[GraphNode]
    levels: list[list[str]]
    edges: list[tuple[str, str]]


def node_paths(plan: Plan) -> list[str]:
    """Return the path of each node, by index: empty for the root, ``build[*]`` for a body."""
    paths: list[str] = []
    for node in plan.nodes:
        if node.parent < 0:
            paths.append("")
            continue
        above = paths[node.parent]
        if isinstance(plan.nodes[node.parent], Loop):
            paths.append(f"{above}[*]")
        else:
            paths.append(f"{above}/{node.name}" if above else node.name)
    return paths


def graph(plan: Plan, states: Mapping[str, str] | None = None) -> PlanGraph:
    """Return the graph of *plan*; *states* gives the states of a run's steps by their paths."""
    paths = node_paths(plan)
    levels = _levels(plan)
    shown = _states(states or {})
    nodes = [
        GraphNode(
            path=paths[index],
            kind=_kind(node),
            title=node.title,
            uses=_uses(node),
            level=levels[index] if node.size == 1 else -1,
            parent=paths[node.parent],
            state=shown.get(paths[index], ""),
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
        name=plan.name, nodes=nodes, levels=[level for level in by_level if level], edges=edges
    )


def render_graph(
    plan: Plan, form: Format = "mermaid", states: Mapping[str, str] | None = None
) -> str:
    """Return the graph of *plan* as text, ended by a line break."""
    found = graph(plan, states)
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
    if form == "yaml":
        return yaml.safe_dump(msgspec.to_builtins(found), sort_keys=False, allow_unicode=True)
    lines = _mermaid(found) if form == "mermaid" else _dot(found)
    return "\n".join(lines) + "\n"


def _uses(node: Node) -> str:
    if isinstance(node, Subworkflow):
        return node.source
    return node.uses if isinstance(node, Task) else ""


def _kind(node: Node) -> str:
    if isinstance(node, Group):
        return node.kind
    if isinstance(node, Loop):
        return "matrix" if node.kind == "matrix" else "loop"
    if isinstance(node, Wait) and node.approval:
        return "approval"
    return _KINDS[type(node)]


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
    known = [state for state in _WORST_FIRST if state in counter]
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


def _label(node: GraphNode) -> list[str]:
    """Return the lines of a node's label."""
    name = node.path.rsplit("/", 1)[-1]
    lines = [name]
    if node.title and node.title != name:
        lines.append(node.title)
    if node.state:
        lines.append(node.state)
    return lines


def _worst(state: str) -> str:
    return next((known for known in _WORST_FIRST if known in state), "")


def _children(found: PlanGraph) -> dict[str, list[GraphNode]]:
    inside: dict[str, list[GraphNode]] = {}
    for node in found.nodes:
        inside.setdefault(node.parent, []).append(node)
    return inside


def _mermaid(found: PlanGraph) -> list[str]:
    ids = {node.path: f"n{index}" for index, node in enumerate(found.nodes)}
    inside = _children(found)
    lines = ["flowchart TD"]

    def write(parent: str, indent: str) -> None:
        for node in inside.get(parent, ()):
            text = "<br/>".join(_mermaid_text(line) for line in _label(node))
            if node.path in inside:
                lines.append(f'{indent}subgraph {ids[node.path]}["{text}"]')
                write(node.path, indent + "  ")
                lines.append(f"{indent}end")
            else:
                lines.append(f'{indent}{ids[node.path]}["{text}"]')

    write("", "  ")
    lines += [f"  {ids[before]} --> {ids[after]}" for before, after in found.edges]
    for node in found.nodes:
        colour = _COLOURS.get(_worst(node.state))
        if colour and node.path not in inside:
            lines.append(f"  style {ids[node.path]} fill:{colour}")
    return lines


def _mermaid_text(text: str) -> str:
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return " ".join(text.split())


def _dot(found: PlanGraph) -> list[str]:
    inside = _children(found)
    lines = [f"digraph {_dot_text(found.name)} {{", "  compound=true;", "  node [shape=box];"]

    def write(parent: str, indent: str) -> None:
        for node in inside.get(parent, ()):
            text = _dot_text("\n".join(_label(node)))
            if node.path in inside:
                lines.append(f"{indent}subgraph {_dot_text('cluster_' + node.path)} {{")
                lines.append(f"{indent}  label={text};")
                write(node.path, indent + "  ")
                lines.append(f"{indent}}}")
            else:
                colour = _COLOURS.get(_worst(node.state))
                style = f", style=filled, fillcolor={_dot_text(colour)}" if colour else ""
                lines.append(f"{indent}{_dot_text(node.path)} [label={text}{style}];")

    write("", "  ")
    for before, after in found.edges:
        # DOT joins clusters by an edge between two of their leaves.
        ends = [f"ltail={_dot_text('cluster_' + before)}"] if before in inside else []
        ends += [f"lhead={_dot_text('cluster_' + after)}"] if after in inside else []
        attributes = f" [{', '.join(ends)}]" if ends else ""
        tail, head = _leaf(before, inside, -1), _leaf(after, inside, 0)
        lines.append(f"  {_dot_text(tail)} -> {_dot_text(head)}{attributes};")
    lines.append("}")
    return lines


def _leaf(path: str, inside: dict[str, list[GraphNode]], which: int) -> str:
    while path in inside:
        path = inside[path][which].path
    return path


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
