"""Brings results to the owners: batches, one request in flight for each route, until confirmed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from headrace.errors import HeadraceError, LimitExceeded, Unreachable
from headrace.messages import (
    Claim,
    ClaimReply,
    ResultBatch,
    ResultReply,
    ResultStatus,
    StepError,
    StepResult,
    Task,
    TurnReply,
    TurnReport,
    decode,
    encode,
    subjects,
)
from headrace.worker.core import Origin, Outbox, Route

log = logging.getLogger(__name__)

VERSION: Final = 1
TIMEOUT_S: Final = 5.0
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
RETRY_AFTER_MAX_S: Final = 60.0
CLAIM_TRIES_S: Final = 30.0
"""A claim that nobody answers for so long is given up; the attempt is handed back."""


class Requests(Protocol):
    """The broker as the reporter sees it."""

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Return the answer. Raises `Unreachable`, or another `HeadraceError`."""
        ...


class Reporter:
    """A `ResultSink`, `ClaimDesk` and `TurnDesk` on the broker.

    A route's sender is a task that lives as long as there is something to send, so idle shards
    cost nothing. The caller awaits `close`.
    """

    def __init__(
        self,
        requests: Requests,
        outbox: Outbox,
        *,
        worker: str,
        incarnation: str,
        on_room: Callable[[], None],
        on_refused: Callable[[int], None] = lambda _count: None,
        on_sent: Callable[[int, bool], None] = lambda _count, _again: None,
    ) -> None:
        self.outbox = outbox
        self._requests = requests
        self._worker, self._incarnation = worker, incarnation
        self._on_room = on_room
        """Called when results were confirmed."""
        self._on_refused, self._on_sent = on_refused, on_sent
        self._senders: dict[Route, asyncio.Task[None]] = {}
        self._hurry: dict[Route, asyncio.Event] = {}
        self._waits: dict[Route, asyncio.Timeout] = {}
        """By route, the wait for the answer to what is in flight."""

    def deliver(self, origin: Origin, result: StepResult) -> None:
        """Keep *result* until the owner has it; sent at once if the route is idle."""
        route = (origin.namespace, origin.shard)
        self.outbox.add(route, result)
        if route not in self._senders:
            self._senders[route] = asyncio.get_running_loop().create_task(
                self._send_all(route), name=f"worker-report-{origin.shard}"
            )

    def hurry(self) -> None:
        """Send again at once what waits for a pause to end: the connection is back."""
        for event in self._hurry.values():
            event.set()

    def moved(self, shard: int) -> None:
        """Another owner has the shard: the former one need not answer, so send again at once."""
        now_s = asyncio.get_running_loop().time()
        for route, wait in self._waits.items():
            if route[1] == shard and not wait.expired():
                wait.reschedule(now_s)
        for route, event in self._hurry.items():
            if route[1] == shard:
                event.set()

    async def drained(self) -> None:
        """Return when everything is confirmed; bound it with a timeout."""
        while self._senders:
            await asyncio.wait(set(self._senders.values()))
            # A sender takes itself out when it ends; let that happen.
            await asyncio.sleep(0)

    async def close(self) -> int:
        """Stop sending; return how many results nobody has confirmed."""
        senders = list(self._senders.values())
        for sender in senders:
            sender.cancel()
        if senders:
            await asyncio.wait(senders, timeout=1)
        return len(self.outbox)

    async def claim(self, origin: Origin, task: Task) -> ClaimReply:
        """Ask whether an at-most-once attempt may start; raises `Unreachable` in the end."""
        payload = encode(
            Claim(
                VERSION,
                self._worker,
                self._incarnation,
                task.run,
                task.step,
                task.attempt,
                task.token,
            )
        )
        subject = subjects.result(origin.namespace, origin.shard, self._worker)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLAIM_TRIES_S
        pause_s = BACKOFF_MIN_S
        while True:
            try:
                answer = await self._requests.request(subject, payload, timeout_s=TIMEOUT_S)
                return decode(ClaimReply, answer)
            except HeadraceError as error:
                if loop.time() + pause_s > deadline:
                    raise Unreachable(f"claim of {task.path}: {error}") from error
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    async def turn(self, origin: Origin, report: TurnReport) -> TurnReply:
        """Bring what a workflow function did to its owner; see `TurnDesk.turn`."""
        subject = subjects.result(origin.namespace, origin.shard, self._worker)
        answer = await self._requests.request(subject, encode(report), timeout_s=TIMEOUT_S)
        return decode(TurnReply, answer)

    async def _send_all(self, route: Route) -> None:
        hurry = self._hurry[route] = asyncio.Event()
        try:
            while results := self.outbox.take(route):
                await self._send(route, results, hurry)
        except Exception:
            log.exception("reporting stopped", extra={"shard": route[1]})
            raise
        finally:
            del self._senders[route], self._hurry[route]

    async def _send(self, route: Route, results: list[StepResult], hurry: asyncio.Event) -> None:
        namespace, shard = route
        subject = subjects.result(namespace, shard, self._worker)
        payload = encode(ResultBatch(VERSION, self._worker, self._incarnation, results))
        pause_s = BACKOFF_MIN_S
        again = False
        while True:
            try:
                self._on_sent(len(results), again)
                reply = decode(ResultReply, await self._answer(route, subject, payload))
            except TimeoutError:
                again = True
                continue
            except LimitExceeded as error:
                if len(results) > 1:
                    # The broker takes less than we thought: smaller batches from now on.
                    self.outbox.batch_bytes_max = max(1, self.outbox.batch_bytes_max // 2)
                    self.outbox.substitute(route, results)
                else:
                    self.outbox.substitute(route, [_without_payload(results[0], str(error))])
                return
            except HeadraceError as error:
                if not again:
                    log.info("results not taken yet", extra={"shard": shard, "error": str(error)})
                wait_s = pause_s * random.uniform(0.5, 1.0)
                pause_s = min(pause_s * 2, BACKOFF_MAX_S)
            else:
                if reply.retry_after_ms <= 0:
                    self._settle(route, results, reply.refused)
                    return
                again = True
                await asyncio.sleep(min(reply.retry_after_ms / 1000, RETRY_AFTER_MAX_S))
                continue
            again = True
            hurry.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await hurry.wait()
            except TimeoutError:
                pass

    async def _answer(self, route: Route, subject: str, payload: bytes) -> bytes:
        """Return the owner's answer. Raises `TimeoutError` when the shard has `moved`."""
        try:
            async with asyncio.timeout(None) as wait:
                self._waits[route] = wait
                return await self._requests.request(subject, payload, timeout_s=TIMEOUT_S)
        finally:
            del self._waits[route]

    def _settle(self, route: Route, results: list[StepResult], refused: list[int]) -> None:
        self.outbox.settle(route)
        for index in refused:
            if 0 <= index < len(results):
                result = results[index]
                log.warning(
                    "result refused",
                    extra={
                        "run": result.run,
                        "step_number": result.step,
                        "attempt": result.attempt,
                        "token": result.token,
                    },
                )
        if refused:
            self._on_refused(len(refused))
        self._on_room()


def _without_payload(result: StepResult, why: str) -> StepResult:
    """Return *result* as a failure that fits into a message."""
    return msgspec.structs.replace(
        result,
        status=ResultStatus.FAILED,
        output=msgspec.Raw(b"\x80"),
        error=StepError("result-too-large", why, False),
        extra=None,
    )
