"""Starting workflow functions in the engine of this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from headrace.messages import RunView
from headrace.plan import Plan
from headrace.sdk import App, Client, Workflow, result_of

P = ParamSpec("P")
R = TypeVar("R")

RunWhole = Callable[[Plan, dict[str, Any], Workflow[..., Any]], Awaitable[RunView]]


class FunctionClient(Client):
    """A `Client` that waits for an end without asking for it."""

    def __init__(self, core: Any, *, serve: Callable[[App], None], run: RunWhole) -> None:
        """*run* runs a plan to its end."""
        super().__init__(core, serve=serve)
        self._run = run

    async def start_and_wait(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See `Client.start_and_wait`."""
        data = self.inputs_of(workflow, args, kwargs)
        view = await self._run(workflow.plan, data, workflow)
        result: R = result_of(view, workflow.signature.result)
        return result
