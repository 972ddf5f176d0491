"""Pictures of a graph: Mermaid and DOT for people, JSON and YAML for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import yaml

from headrace.language._render import WORST_FIRST, GraphNode, PlanGraph, StepTimes, graph
from headrace.plan import Plan

Format = Literal["mermaid", "dot", "json", "yaml"]

_COLOURS = {
    "FAILED": "#f8b4b4", "UNKNOWN": "#f5c77e", "CANCELLED": "#d4d4d4", "RUNNING": "#a5c8ff",
    "DISPATCHED": "#c7dcff", "WAITING": "#fdf3b0", "READY": "#e6f0ff", "PENDING": "#ffffff",
    "COMPLETED": "#b7e4c7", "SKIPPED": "#eeeeee",
}  # fmt: skip
_MERMAID_SHAPES = {
    "wait": ("{{", "}}"), "approval": ("{{", "}}"), "sleep": ("([", "])"),
    "subworkflow": ("[[", "]]"),
}  # fmt: skip
_DOT_SHAPES = {
    "wait": "hexagon", "approval": "hexagon", "sleep": "oval", "subworkflow": "box3d"
}  # fmt: skip
_DETAIL_MAX = 60
"""Characters of a condition that a picture shows."""


def render_graph(
    plan: Plan,
    form: Format = "mermaid",
    states: Mapping[str, str] | None = None,
    times: Mapping[str, StepTimes] | None = None,
) -> str:
    """Return the graph of *plan* as text, ended by a line break; see `graph`."""
    found = graph(plan, states, times)
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
    if form == "yaml":
        return yaml.safe_dump(msgspec.to_builtins(found), sort_keys=False, allow_unicode=True)
    lines = _mermaid(found) if form == "mermaid" else _dot(found)
    return "\n".join(lines) + "\n"


def _label(node: GraphNode) -> list[str]:
    """Return the lines of a node's label."""
    lines = [node.name]
    if node.title and node.title != node.name:
        lines.append(node.title)
    if node.detail:
        cut = node.detail if len(node.detail) <= _DETAIL_MAX else node.detail[:_DETAIL_MAX] + "…"
        lines.append(cut)
    if node.state:
        length = f" {_seconds(node.duration_ms)}" if node.duration_ms else ""
        lines.append(node.state + length)
    return lines


def _seconds(length_ms: int) -> str:
    if length_ms < 1_000:
        return f"{length_ms} ms"
    minutes, rest_ms = divmod(length_ms, 60_000)
    seconds = f"{rest_ms / 1_000:.1f} s" if not minutes else f"{rest_ms // 1_000:02d} s"
    return f"{minutes} m {seconds}" if minutes else seconds


def _colour(node: GraphNode) -> str:
    worst = next((known for known in WORST_FIRST if known in node.state), "")
    return _COLOURS.get(worst, "")


class _Tree:
    """The nodes of a graph by what they stand in; a loop and its body are drawn as one."""

    def __init__(self, found: PlanGraph) -> None:
        self.inside: dict[str, list[GraphNode]] = {}
        for node in found.nodes:
            self.inside.setdefault(node.parent, []).append(node)

    def children(self, path: str) -> list[GraphNode]:
        """Return what is drawn in the frame of *path*."""
        found = self.inside.get(path, [])
        if len(found) == 1 and found[0].path == f"{path}[*]" and found[0].path in self.inside:
            return self.children(found[0].path)
        return found

    def leaf(self, path: str, which: int) -> str:
        """Return the first (0) or last (-1) leaf in *path*, or itself."""
        while path in self.inside:
            path = self.inside[path][which].path
        return path


def _mermaid(found: PlanGraph) -> list[str]:
    ids = {node.path: f"n{index}" for index, node in enumerate(found.nodes)}
    tree = _Tree(found)
    lines = ["flowchart TD"]

    def write(parent: str, indent: str) -> None:
        for node in tree.children(parent):
            text = "<br/>".join(_mermaid_text(line) for line in _label(node))
            if node.path in tree.inside:
                lines.append(f'{indent}subgraph {ids[node.path]}["{text}"]')
                write(node.path, indent + "  ")
                lines.append(f"{indent}end")
            else:
                left, right = _MERMAID_SHAPES.get(node.kind, ("[", "]"))
                lines.append(f'{indent}{ids[node.path]}{left}"{text}"{right}')

    write("", "  ")
    lines += [f"  {ids[before]} --> {ids[after]}" for before, after in found.edges]
    lines += [f"  {ids[node]} -. {when} .-> {ids[called]}" for node, called, when in found.calls]
    by_colour: dict[str, list[str]] = {}
    for node in found.nodes:
        colour = _colour(node)
        if colour and node.path not in tree.inside:
            by_colour.setdefault(colour, []).append(ids[node.path])
    for number, (colour, members) in enumerate(by_colour.items()):
        lines.append(f"  classDef c{number} fill:{colour},color:#000000")
        lines.append(f"  class {','.join(members)} c{number}")
    return lines


def _mermaid_text(text: str) -> str:
    """Return *text* with Mermaid's own codes for what means something to it."""
    codes = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "#": "35"}
    plain = "".join(f"#{codes[char]};" if char in codes else char for char in text)
    return " ".join(plain.split())


def _dot(found: PlanGraph) -> list[str]:
    tree = _Tree(found)
    lines = [f"digraph {_dot_text(found.name)} {{", "  compound=true;", "  node [shape=box];"]

    def write(parent: str, indent: str) -> None:
        for node in tree.children(parent):
            text = _dot_text("\n".join(_label(node)))
            if node.path in tree.inside:
                lines.append(f"{indent}subgraph {_dot_text('cluster_' + node.path)} {{")
                lines.append(f"{indent}  label={text};")
                write(node.path, indent + "  ")
                lines.append(f"{indent}}}")
                continue
            shape = f", shape={_DOT_SHAPES[node.kind]}" if node.kind in _DOT_SHAPES else ""
            colour = _colour(node)
            style = f", style=filled, fillcolor={_dot_text(colour)}" if colour else ""
            lines.append(f"{indent}{_dot_text(node.path)} [label={text}{shape}{style}];")

    write("", "  ")
    edges = [(before, after, "") for before, after in found.edges] + found.calls
    for before, after, when in edges:
        # DOT joins clusters by an edge between two of their leaves.
        ends = [f"ltail={_dot_text('cluster_' + before)}"] if before in tree.inside else []
        ends += [f"lhead={_dot_text('cluster_' + after)}"] if after in tree.inside else []
        ends += [f"style=dashed, label={_dot_text(when)}"] if when else []
        attributes = f" [{', '.join(ends)}]" if ends else ""
        tail, head = tree.leaf(before, -1), tree.leaf(after, 0)
        lines.append(f"  {_dot_text(tail)} -> {_dot_text(head)}{attributes};")
    lines.append("}")
    return lines


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
