"""An owner of one shard for tests of workers: dispatches by hand, records what workers say."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from headrace.bus import Bus, ConsumerConfig, Message, StreamConfig
from headrace.messages import (
    Claim,
    ClaimReply,
    LaneOffer,
    LogLines,
    ResultReply,
    StepResult,
    Task,
    TaskBatch,
    TaskOptions,
    WorkerHeartbeat,
    WorkerOrder,
    WorkerRequest,
    encode,
    subjects,
)

_REQUEST: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(WorkerRequest)


def make_task(
    run: str = "default/r1",
    step: int = 1,
    *,
    uses: str = "noop",
    inputs: dict[str, Any] | None = None,
    attempt: int = 1,
    token: int = 1,
    path: str = "job/step",
    **options: Any,
) -> Task:
    """Return a task; *options* are those of `TaskOptions`."""
    raw = msgspec.Raw(encode(inputs or {}))
    chosen = TaskOptions(**options) if options else None
    return Task(run, step, path, attempt, token, uses, raw, chosen)


def output_of(result: StepResult) -> dict[str, Any]:
    """Return the decoded outputs of a result."""
    decoded: dict[str, Any] = msgspec.msgpack.decode(result.output)
    return decoded


class Owner:
    """Answers results and claims, and keeps everything for the test to look at."""

    def __init__(self, bus: Bus, *, shard: int = 0, namespace: str = "default") -> None:
        self.bus, self.shard, self.namespace = bus, shard, namespace
        self.epoch = 1
        self.results: list[StepResult] = []
        self.batches: list[list[StepResult]] = []
        self.claims: list[Claim] = []
        self.heartbeats: list[WorkerHeartbeat] = []
        self.lines: list[LogLines] = []
        self.replies: list[ResultReply | None] = []
        """Answers to the next batches, None for silence; then everything is taken."""
        self.grant = ClaimReply(True)
        self._offers: list[LaneOffer] = []
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Make the task stream and listen."""
        await self.bus.js.ensure_stream(
            StreamConfig(
                name=subjects.TASK_STREAM,
                subjects=("headrace.task.>",),
                retention="workqueue",
                storage="memory",
            )
        )
        await self.bus.js.purge(subjects.TASK_STREAM, subject="headrace.task.>")
        self.subscriptions = [
            self.bus.subscribe(subjects.result(self.namespace, self.shard, "*"), self._on_request),
            self.bus.subscribe(subjects.WORKER_HEARTBEATS, self._on_heartbeat),
            self.bus.subscribe("headrace.logs.>", self._on_lines),
        ]
        await self.bus.flush()

    def stop(self) -> None:
        """Listen no more."""
        for subscription in self.subscriptions:
            subscription.close()

    async def open_lane(self, *capabilities: str, lane: str = "") -> str:
        """Make a lane's consumer; from now on every heartbeat without the lane is offered it."""
        lane = lane or subjects.lane_of(self.namespace, capabilities)
        consumer = subjects.task_consumer(self.namespace, lane)
        await self.bus.js.ensure_consumer(
            subjects.TASK_STREAM,
            ConsumerConfig(
                durable_name=consumer,
                filter_subject=subjects.task(self.namespace, lane, "*"),
                ack_wait_ms=30_000,
            ),
        )
        self._offers.append(LaneOffer(lane, consumer, list(capabilities)))
        return lane

    async def dispatch(self, lane: str, *tasks: Task, epoch: int | None = None) -> None:
        """Put one message with *tasks* into a lane."""
        batch = TaskBatch(1, self.shard, epoch or self.epoch, self.namespace, 0, list(tasks))
        await self.bus.js.publish(
            subjects.task(self.namespace, lane, self.shard), encode(batch), timeout_s=5
        )

    def order(self, order: WorkerOrder) -> None:
        """Tell the worker that beat last."""
        beat = self.heartbeats[-1]
        self.bus.publish(orders_of(beat), encode(order))

    async def until(self, condition: Any, *, within_s: float = 10.0) -> None:
        """Return when *condition* of this owner holds, looked at after each message."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"not within {within_s} s; results {self.results}, "
                f"last heartbeat {self.heartbeats[-1:]}"
            ) from None

    def of(self, run: str) -> list[StepResult]:
        """Return the results of a run."""
        return [result for result in self.results if result.run == run]

    def text(self) -> list[str]:
        """Return all lines of output, as they came."""
        return [line.text for message in self.lines for line in message.lines]

    def _on_request(self, message: Message) -> None:
        request = _REQUEST.decode(message.data)
        if isinstance(request, Claim):
            self.claims.append(request)
            self.bus.respond(message, encode(self.grant))
        else:
            reply: ResultReply | None = self.replies.pop(0) if self.replies else ResultReply()
            self.batches.append(request.results)
            if reply is not None:
                if not reply.retry_after_ms:
                    self.results += request.results
                self.bus.respond(message, encode(reply))
        self._changed.set()

    def _on_heartbeat(self, message: Message) -> None:
        beat = msgspec.msgpack.decode(message.data, type=WorkerHeartbeat)
        self.heartbeats.append(beat)
        for offer in self._offers:
            if offer.lane not in beat.lanes and not beat.stopped:
                self.bus.publish(orders_of(beat), encode(offer))
        self._changed.set()

    def _on_lines(self, message: Message) -> None:
        self.lines.append(msgspec.msgpack.decode(message.data, type=LogLines))
        self._changed.set()


def orders_of(beat: WorkerHeartbeat) -> str:
    """Where the worker that beats so hears orders."""
    return subjects.worker_orders(beat.namespace, beat.id, beat.incarnation, beat.capabilities)
