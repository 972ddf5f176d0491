"""Steps that run on other workers than their workflow: the function that runs one of them there.

Such a step is a run of its own whose function calls that one step. So it has all that steps next to
their workflow have: attempts, details of heartbeats, claims and cancels are in that run's journal.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.retry import RetryPolicy
from headrace.sdk import _codec
from headrace.sdk._errors import OperationFailed, StepFailure
from headrace.sdk._retry import retry_of
from headrace.sdk._step import Effect, Step, StepOptions
from headrace.sdk._workflow import Workflow

NAME: Final = ".step"
"""No workflow of a user has this name."""
RESULT: Final = "result"


class Call(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One call of a step; with its arguments, the input of the run."""

    step: str
    key: str
    retry: RetryPolicy | None = None
    timeout_ms: int = 0
    heartbeat_timeout_ms: int = 0
    effect: Effect = "at-least-once"


def inputs_of(
    step: Step[Any, Any], key: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the input of a run that calls *step*, known as *key* in the journal of its parent."""
    options = step.options_
    call = Call(
        step=step.name,
        key=key,
        retry=options.retry.policy if options.retry is not None else None,
        timeout_ms=options.timeout_ms,
        heartbeat_timeout_ms=options.heartbeat_timeout_ms,
        effect=options.effect,
    )
    return {"call": call, "arguments": [args, kwargs]}


def remote_workflow(
    steps: Mapping[str, Step[Any, Any]], *, app: str, version: str
) -> Workflow[Any, Any]:
    """Return the workflow that runs one of *steps*, as `inputs_of` says."""

    # Its Context is not named: the module of that needs this one.
    async def run_step(ctx: Any, call: Call, arguments: msgspec.Raw) -> Any:
        step = steps.get(call.step)
        if step is None:
            known = ", ".join(sorted(steps))
            text = f"app {app}@{version} has no step {call.step!r} here (there are: {known})"
            raise StepFailure("no-such-step", text, retryable=False)
        try:
            args, kwargs = step.signature.from_call(arguments)
        except _codec.CodecError as error:
            raise StepFailure("invalid-input", str(error), retryable=False) from error
        try:
            return await ctx.step(_as_called(step, call), *args, **kwargs)
        except OperationFailed as error:
            # The workflow that waits for it says what has failed, and where.
            raise StepFailure(error.type, error.message, retryable=False) from error

    return Workflow(run_step, app=app, version=version, name=NAME)


def _as_called(step: Step[Any, Any], call: Call) -> Step[Any, Any]:
    there = copy.copy(step)
    there.options_ = StepOptions(
        key=call.key,
        retry=None if call.retry is None else retry_of(call.retry),
        timeout_ms=call.timeout_ms,
        heartbeat_timeout_ms=call.heartbeat_timeout_ms,
        effect=call.effect,
    )
    return there
