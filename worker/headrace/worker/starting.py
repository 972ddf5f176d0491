"""What happens between an attempt's turn and its effect: inputs, claim, deadline, thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from headrace.errors import Unreachable
from headrace.payloads import BLOB_KEY
from headrace.threads import Threads
from headrace.worker.core import Assignment
from headrace.worker.deferred import Known, resolved
from headrace.worker.handlers import Context, Handler, HandlerError
from headrace.worker.outcomes import HandBack, NotGranted
from headrace.worker.payloads import Payloads
from headrace.worker.ports import ClaimDesk, ValueSource


class Starter:
    """Makes the coroutine of an attempt: the handler's own where nothing has to be done first."""

    def __init__(
        self,
        *,
        payloads: Payloads,
        claims: ClaimDesk | None,
        secrets: ValueSource,
        variables: ValueSource,
        now_ms: Callable[[], int],
    ) -> None:
        self._payloads, self._claims = payloads, claims
        self._secrets, self._variables = secrets, variables
        self._now_ms = now_ms
        self._threads = Threads("headrace-step")
        self.abandoned = False
        """The process is on its way out: wait for no thread any more."""

    def begin(
        self, assignment: Assignment, handler: Handler | None, context: Context
    ) -> Coroutine[Any, Any, Any]:
        """Return the coroutine that does the attempt's work, not started.

        It may raise `HandBack`, `NotGranted`, or what the handler raises.
        """
        task = assignment.task
        if handler is None:
            raise HandlerError("unknown-handler", f"no handler {task.uses!r} here", False)
        options = task.options
        special = options is not None and (
            options.at_most_once or options.start_by_ms or options.deferred
        )
        inputs = task.inputs
        fetched = len(inputs) > 1 and BLOB_KEY in bytes(inputs)
        if special or fetched or not handler.is_async:
            return self._prepared(assignment, handler, context)
        given = inputs if handler.takes_raw else handler.decode(inputs)
        started: Coroutine[Any, Any, Any] = handler.function(context, given)
        return started

    async def _prepared(self, assignment: Assignment, handler: Handler, context: Context) -> Any:
        """Do what must happen right before the effect, then run the handler."""
        task, options = assignment.task, assignment.task.options
        if options is not None and options.deferred:
            known = await asyncio.to_thread(self._known)
            # Opened first, so that the secrets are hidden in all that follows.
            assert context.output is not None
            incoming = self._payloads.incoming(task.run)
            filled = await incoming.decoded(task.inputs)
            filled, context.env = await resolved(context, filled, options.deferred, known, incoming)
            inputs = handler.convert(filled)
        elif BLOB_KEY in bytes(task.inputs):
            filled = await self._payloads.incoming(task.run).decoded(task.inputs)
            inputs = handler.convert(filled)
        else:
            inputs = handler.decode(task.inputs)
        start_by_ms = options.start_by_ms if options is not None else 0
        if options is not None and options.at_most_once:
            start_by_ms = await self._claimed(assignment) or start_by_ms
        if start_by_ms and self._now_ms() > start_by_ms:
            raise HandBack
        if handler.is_async:
            return await handler.function(context, inputs)
        return await self._in_thread(assignment, lambda: handler.function(context, inputs))

    def _known(self) -> Known:
        return Known(self._secrets.read(), self._variables.read())

    async def _claimed(self, assignment: Assignment) -> int:
        if self._claims is None:
            raise HandlerError("not-supported", "at-most-once steps cannot be claimed here", False)
        try:
            reply = await self._claims.claim(assignment.origin, assignment.task)
        except Unreachable as error:
            raise HandBack from error
        if not reply.granted:
            raise NotGranted
        return reply.start_by_ms

    async def _in_thread(self, assignment: Assignment, call: Callable[[], Any]) -> Any:
        """Run *call* in a thread; a stop waits until it has ended, for nobody can kill it."""
        future = self._threads.start(call)
        interrupted: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                if self.abandoned:
                    raise
                interrupted = error
        if interrupted is not None and future.exception() is not None:
            raise interrupted
        return future.result()
