"""Starting workflow functions in the engine of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from headrace.client import Client as CoreClient
from headrace.messages import RunView
from headrace.sdk import Client, Workflow, result_of

if TYPE_CHECKING:
    from headrace.local.engine import LocalEngine

P = ParamSpec("P")
R = TypeVar("R")


class FunctionClient(Client):
    """A `Client` that is told of ends, and need not ask for them."""

    def __init__(self, core: CoreClient, *, engine: LocalEngine) -> None:
        super().__init__(core, serve=engine.serve)
        self._engine = engine

    async def start_and_wait(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See `Client.start_and_wait`."""
        data = self.inputs_of(workflow, args, kwargs)
        options = workflow.options_
        view = await self._engine.run(
            workflow.plan,
            data,
            run_id=options.id,
            labels=options.labels,
            priority=options.priority,
            steps=False,
        )
        result: R = result_of(view, workflow.signature.result)
        return result

    async def wait(self, run: str, timeout_s: float | None) -> RunView:
        """See `Client.wait`."""
        return await self._engine.wait(run, timeout_s=timeout_s, steps=False)
