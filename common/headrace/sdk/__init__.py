"""Durable workflows as plain async functions.

::

    from headrace.sdk import App, Context, Retry, days

    app = App("orders")

    @app.step(retry=Retry(5), timeout=30)
    async def charge(order: Order) -> Receipt: ...

    @app.workflow
    async def order_processing(ctx: Context, order_id: str) -> str:
        order = await ctx.step(fetch_order, order_id)
        await ctx.sleep(days(3))
        ...

Each result is recorded before the next step begins. When a worker is lost another one runs the
function again, fed with what was recorded: nothing recorded is done twice. So what a workflow
function does itself must come out the same each time: no clocks, no chance and no I/O but by its
`Context`.
"""

from headrace.sdk._app import App
from headrace.sdk._attempt import StepInfo, add_fault, current_step, remove_fault, step_info
from headrace.sdk._check import Checked, check_history
from headrace.sdk._client import (
    Client,
    Handle,
    RunFailed,
    current_client,
    decoded_result,
    result_of,
)
from headrace.sdk._context import Context
from headrace.sdk._durations import (
    Duration,
    days,
    hours,
    milliseconds,
    minutes,
    seconds,
    to_ms,
    weeks,
)
from headrace.sdk._entries import SignalInvalid
from headrace.sdk._errors import (
    ChildFailed,
    EffectUnknown,
    JoinFailed,
    NonRetryable,
    OperationFailed,
    SignalTimeout,
    StepFailed,
    StepFailure,
)
from headrace.sdk._execution import Execution
from headrace.sdk._lint import lint_paths, lint_source
from headrace.sdk._operation import Operation
from headrace.sdk._processes import renew_processes
from headrace.sdk._reference import resolved
from headrace.sdk._retry import Retry
from headrace.sdk._step import AsyncStep, Step, SyncStep
from headrace.sdk._turn import Desk, Left, Terms, TurnRun, new_execution
from headrace.sdk._typed import typed_inputs
from headrace.sdk._workflow import Workflow

__all__ = [
    "App",
    "AsyncStep",
    "Checked",
    "ChildFailed",
    "Client",
    "Context",
    "Desk",
    "Duration",
    "EffectUnknown",
    "Execution",
    "Handle",
    "JoinFailed",
    "Left",
    "NonRetryable",
    "Operation",
    "OperationFailed",
    "Retry",
    "RunFailed",
    "SignalInvalid",
    "SignalTimeout",
    "Step",
    "StepFailed",
    "StepFailure",
    "StepInfo",
    "SyncStep",
    "Terms",
    "TurnRun",
    "Workflow",
    "add_fault",
    "check_history",
    "current_client",
    "current_step",
    "days",
    "decoded_result",
    "hours",
    "lint_paths",
    "lint_source",
    "milliseconds",
    "minutes",
    "new_execution",
    "remove_fault",
    "renew_processes",
    "resolved",
    "result_of",
    "seconds",
    "step_info",
    "to_ms",
    "typed_inputs",
    "weeks",
]
