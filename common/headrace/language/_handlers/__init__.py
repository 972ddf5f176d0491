"""Handlers that every worker has: their inputs and outputs, and examples. Data only.

The worker's own structs say the same; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.language._handlers._commands import DOCKER, SCRIPT, SHELL
from headrace.language._handlers._files import ARTIFACTS, FILES
from headrace.language._handlers._flow import NODES, NOOP, SLEEP
from headrace.language._handlers._network import HTTP, NOTIFY
from headrace.language._handlers._spec import (
    FieldType,
    HandlerSpec,
    InputField,
    NodeSpec,
    OutputField,
    json_schema,
)

__all__ = [
    "BUILTIN_HANDLERS",
    "INPUT_ALIASES",
    "NODE_TYPES",
    "TASK_TYPE_ALIASES",
    "FieldType",
    "HandlerSpec",
    "InputField",
    "NodeSpec",
    "OutputField",
    "json_schema",
]

_SPECS = (SHELL, SCRIPT, HTTP, *FILES, *ARTIFACTS, NOTIFY, *DOCKER, SLEEP, NOOP)

BUILTIN_HANDLERS: Mapping[str, HandlerSpec] = {spec.name: spec for spec in _SPECS}
"""By name, what every worker can run."""

NODE_TYPES: Mapping[str, NodeSpec] = {node.name: node for node in NODES}
"""By name, what the engine carries out by itself: each a `type:` of the `tasks:` dialect."""

TASK_TYPE_ALIASES: Mapping[str, str] = {
    "http": "http/request",
    "docker": "docker/run",
    "notify": "notify/webhook",
    "webhook": "notify/webhook",
}
"""Names of the `tasks:` dialect for handlers."""
INPUT_ALIASES: Mapping[str, Mapping[str, str]] = {"shell": {"command": "run"}}
"""By handler: other names of inputs."""
