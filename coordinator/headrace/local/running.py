"""`run`: one workflow to its end, for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, overload

from headrace.local.engine import LocalEngine
from headrace.messages import RunView
from headrace.plan import Plan
from headrace.sdk import Workflow

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

SETTINGS: Final = frozenset(
    (
        "apps", "capabilities", "handlers", "limits", "namespace", "on_log", "path",
        "persistence", "secrets", "slots", "variables",
    )
)  # fmt: skip
"""Of the engine, that may stand among the inputs of a workflow function."""


@overload
def run(workflow: Workflow[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def run(
    workflow: Plan | Path | str,
    inputs: Mapping[str, Any] | None = None,
    *,
    run_id: str = "",
    labels: Mapping[str, str] | None = None,
    **settings: Any,
) -> RunView: ...
def run(workflow: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a workflow to its end in this thread.

    Of a file or a plan the run is returned, however it ended: ``run("hello.yaml", {"n": 3})``. Of
    a workflow function its result: ``run(order_processing, "order-7")``; raises `RunFailed`.
    Settings of `LocalEngine` may follow by name, where the function has no input of that name.
    With ``persistence="journal", path=…`` and an id (``workflow.options(id=…)``) a program that
    was killed goes on where it was when it is started again. Raises `HeadraceError` when it
    cannot be run.
    """
    if isinstance(workflow, Workflow):
        names = SETTINGS - set(workflow.signature.names)
        settings = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        return _in_a_loop(_function(workflow, args, kwargs, settings))
    return _in_a_loop(_plan(workflow, *args, **kwargs))


async def _function(
    workflow: Workflow[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    settings: dict[str, Any],
) -> R:
    async with LocalEngine(**settings) as engine:
        return await engine.start_and_wait(workflow, *args, **kwargs)


async def _plan(
    workflow: Plan | Path | str,
    inputs: Mapping[str, Any] | None = None,
    *,
    run_id: str = "",
    labels: Mapping[str, str] | None = None,
    **settings: Any,
) -> RunView:
    async with LocalEngine(**settings) as engine:
        return await engine.run(workflow, inputs, run_id=run_id, labels=labels)


def _in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
