"""Starting workflow functions in the engine of this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import msgspec

from headrace.client import Client as CoreClient
from headrace.coordinator.core.views import run_view
from headrace.local.headstart import HeadStart
from headrace.local.submits import with_input
from headrace.messages import RunView
from headrace.sdk import Client, Workflow, decoded_result, result_of

if TYPE_CHECKING:
    from headrace.local.engine import LocalEngine

P = ParamSpec("P")
R = TypeVar("R")

BREATH: Final = 32
"""Runs that begin and end one after the other, before others get the event loop."""


class FunctionClient(Client):
    """A `Client` that is told of ends, and need not ask for them."""

    def __init__(self, core: CoreClient, *, engine: LocalEngine, head_start: HeadStart) -> None:
        super().__init__(core, serve=engine.serve)
        self._engine, self._head_start = engine, head_start
        self._in_a_row = 0

    async def start_and_wait(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See `Client.start_and_wait`."""
        data = self.encoded_inputs(workflow, args, kwargs)
        options, engine, kind = workflow.options_, self._engine, workflow.signature.result
        plan = workflow.plan
        if options.id:
            view = await engine.run(
                plan,
                msgspec.msgpack.decode(data),
                run_id=options.id,
                labels=options.labels,
                priority=options.priority,
                steps=False,
            )
            named: R = result_of(view, kind)
            return named
        owner, starts = engine.running(), engine.starts
        submits = starts.submits
        submit = submits.submit(plan, submits.new_run(), None, options.labels, options.priority)
        stretch = self._head_start.begin(owner, workflow, submit, data)
        if stretch is None:
            submit = with_input(submit, data)
            run = await starts.end(owner, submit.run, starts.post(owner, plan, submit))
        elif stretch.result is not None:
            self._in_a_row += 1
            if self._in_a_row >= BREATH:
                self._in_a_row = 0
                await asyncio.sleep(0)
            whole: R = decoded_result(kind, stretch.result)
            return whole
        else:
            run = await stretch.end()
        result: R = result_of(run_view(run, steps=False), kind)
        return result

    async def wait(self, run: str, timeout_s: float | None) -> RunView:
        """See `Client.wait`."""
        return await self._engine.wait(run, timeout_s=timeout_s, steps=False)
