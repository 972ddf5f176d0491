"""Applications of `headrace.sdk` as handlers: workflow functions."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from headrace.sdk import App, Workflow
from headrace.worker.handlers._context import Context
from headrace.worker.handlers._handler import DESCRIPTION_CHARS_MAX, Handler


def workflow_handler(workflow: Workflow[Any, Any]) -> Handler:
    """Return the handler whose steps are turns of *workflow*."""

    async def run_turn(ctx: Context, inputs: msgspec.Raw) -> None:
        await ctx.run_turn(workflow, inputs)

    return _Described(workflow.uses, run_turn, _of_workflow(workflow))


def handlers_of(app: App) -> list[Handler]:
    """Return all that *app* brings."""
    return [workflow_handler(workflow) for workflow in (*app.workflows.values(), app.remote)]


class _Described(Handler):
    """A handler that is described by what it stands for."""

    __slots__ = ("_about",)

    def __init__(self, name: str, function: Any, about: dict[str, Any]) -> None:
        super().__init__(name, function)
        self._about = {key: value for key, value in about.items() if value}

    def describe(self) -> dict[str, Any]:
        """See `Handler.describe`."""
        return dict(self._about)


def _of_workflow(workflow: Workflow[Any, Any]) -> dict[str, Any]:
    """Return inputs and description of a workflow, as heartbeats tell them."""
    properties: dict[str, Any] = {}
    for name in workflow.signature.names:
        kind = workflow.signature.hints.get(name, Any)
        try:
            properties[name] = msgspec.json.schema(kind)
        except TypeError:
            # A pydantic model, say: its own validation is what counts.
            properties[name] = {}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if workflow.signature.required:
        schema["required"] = sorted(workflow.signature.required)
    return {
        "description": _first_words(workflow.function),
        "version": workflow.version,
        "inputs": schema,
    }


def _first_words(function: Any) -> str:
    text = inspect.getdoc(function) or ""
    return text.partition("\n\n")[0][:DESCRIPTION_CHARS_MAX]
