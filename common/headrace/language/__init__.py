"""The workflow language: YAML text to plans, every problem with its place; plans to pictures.

Pure: texts come in, plans and `headrace.errors.InvalidDefinition` go out.
"""

from headrace.language._compile import compile_workflow
from headrace.language._handlers import BUILTIN_HANDLERS, HandlerSpec, InputField
from headrace.language._render import GraphNode, PlanGraph, graph, node_paths, render_graph

__all__ = [
    "BUILTIN_HANDLERS",
    "GraphNode",
    "HandlerSpec",
    "InputField",
    "PlanGraph",
    "compile_workflow",
    "graph",
    "node_paths",
    "render_graph",
]
