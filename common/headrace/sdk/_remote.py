"""Steps that run on other workers than their workflow: the handler there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from headrace.sdk import _codec
from headrace.sdk._attempt import StepInfo, run_step
from headrace.sdk._errors import StepFailure

if TYPE_CHECKING:
    from headrace.sdk._step import Step

ARGUMENTS = "call"
"""The one input of such a handler: ``[args, kwargs]``."""
RESULT = "result"


class _HandlerContext(Protocol):
    """What a worker tells a handler, as far as it is used here."""

    @property
    def run(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def idempotency_key(self) -> str: ...
    def heartbeat(self, details: Any = None) -> None: ...
    def log(self, line: str, *, stream: str = "stdout") -> None: ...


def remote_handler(step: Step[Any, Any]) -> Callable[..., Any]:
    """Return the function ``(ctx, inputs)`` that a worker calls for *step*."""

    async def handle(ctx: _HandlerContext, inputs: dict[str, Any]) -> Any:
        call = inputs.get(ARGUMENTS)
        try:
            args, kwargs = step.signature.from_call(_codec.encode(call))
        except (_codec.CodecError, msgspec.MsgspecError) as error:
            raise StepFailure("invalid-input", str(error), retryable=False) from error
        info = StepInfo(
            name=step.name,
            key=step.name,
            run=ctx.run,
            attempt=ctx.attempt,
            idempotency=ctx.idempotency_key,
            on_heartbeat=lambda details: ctx.heartbeat(_plain(details)),
            on_log=lambda stream, text: ctx.log(text, stream=stream),
        )
        value = await run_step(step, args, kwargs, info)
        return msgspec.Raw(_codec.encode({RESULT: value}))

    handle.__name__ = step.name
    handle.__doc__ = step.function.__doc__
    return handle


def _plain(details: Any) -> Any:
    return None if details is None else msgspec.msgpack.decode(_codec.encode(details))
