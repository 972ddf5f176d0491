"""The workflow language: YAML text to plans, every problem with its place; plans to pictures;
and what may stand in a file, as JSON Schema.

Pure: texts come in, plans and `headrace.errors.InvalidDefinition` go out.
"""

from headrace.language._calls import FindRegistered
from headrace.language._compile import compile_workflow
from headrace.language._forecast import Forecast, PlannedNode, forecast
from headrace.language._handlers import (
    BUILTIN_HANDLERS,
    NODE_TYPES,
    TASK_TYPE_ALIASES,
    HandlerSpec,
    InputField,
    NodeSpec,
    OutputField,
    json_schema,
)
from headrace.language._pictures import render_graph
from headrace.language._render import GraphNode, PlanGraph, StepTimes, graph
from headrace.language._schema import Dialect, workflow_schema
from headrace.language._schema._page import fill_page
from headrace.plan import node_paths

__all__ = [
    "BUILTIN_HANDLERS",
    "NODE_TYPES",
    "TASK_TYPE_ALIASES",
    "Dialect",
    "FindRegistered",
    "Forecast",
    "GraphNode",
    "HandlerSpec",
    "InputField",
    "NodeSpec",
    "OutputField",
    "PlanGraph",
    "PlannedNode",
    "StepTimes",
    "compile_workflow",
    "fill_page",
    "forecast",
    "graph",
    "json_schema",
    "node_paths",
    "render_graph",
    "workflow_schema",
]
