"""A coordinator that only remembers: answers clients as the contracts say, without a log.

`FakeCluster.answer` is the whole of it; `FakeTransport` brings it to a client without a broker,
`serve` puts it on a real one. Faults are scripted: each request takes the next one from `faults`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from headrace.bus import Bus, Message
from headrace.client._transport import Unsubscribe
from headrace.coordinator.core import Machine, Refusal, ShardState
from headrace.errors import NotFound, Unreachable
from headrace.messages import (
    CancelRun,
    ClearCached,
    ClientBatch,
    ClientReply,
    ClientRequest,
    Explanation,
    GetExplanation,
    GetHistory,
    GetInfo,
    GetPlan,
    GetRun,
    HistoryEntry,
    ListCached,
    ListLocks,
    ListRuns,
    ListSchedules,
    ListTriggers,
    LogLines,
    PauseRun,
    ReplyBatch,
    ResumeRun,
    RunPage,
    RunView,
    ServerInfo,
    ShardInfo,
    SignalRun,
    StorePlan,
    SubmitRun,
    WorkerView,
    decode,
    encode,
    subjects,
)
from headrace.messages._cache import CacheRequest
from headrace.messages._definitions import DefinitionRequest
from headrace.messages._locks import LockRequest
from headrace.messages._schedules import ScheduleRequest
from headrace.messages._variables import VariableRequest
from headrace.plan import decode_plan, plan_digest

ARCHIVE = -1
NOTHING = msgspec.Raw(b"\xc0")

LOST_REQUEST = "lost-request"
LOST_REPLY = "lost-reply"
BUSY = "busy"


class FakeCluster:
    """Shards 1 and 2 for journal runs, 3 for snapshot, 4 for memory; and an archive."""

    def __init__(self) -> None:
        half = subjects.SLOTS // 2
        self.info = ServerInfo(
            version=1,
            release="0.0.test",
            controller="c1",
            coordinators=[{"id": "c1", "state": "Online"}],
            slots=[1, half, 2, subjects.SLOTS - half],
            level_shards={"snapshot": [3], "memory": [4]},
            shards=[ShardInfo(shard=n, owner="c1") for n in (1, 2, 3, 4)],
            workers=[
                WorkerView(
                    id="w1",
                    incarnation="a",
                    namespace="default",
                    state="Online",
                    capabilities=["linux"],
                    slots=4,
                    free=4,
                )
            ],
        )
        self.system = Machine(ShardState(0, frozenset()), chance=lambda: 0.5, home=lambda _: 0)
        """The system shard is the real one, without a log."""
        self.runs: dict[int, dict[str, RunView]] = {n: {} for n in (ARCHIVE, 1, 2, 3, 4)}
        self.plans: dict[int, dict[str, bytes]] = {n: {} for n in (ARCHIVE, 1, 2, 3, 4)}
        self.requests: list[tuple[str, ClientRequest]] = []
        self.accepted: dict[str, RunView] = {}
        """By request id."""
        self.signals: list[SignalRun] = []
        self.logs: list[LogLines] = []
        self.history: dict[str, list[HistoryEntry]] = {}
        self.faults: deque[str] = deque()
        self.after_submit: Callable[[RunView], None] = lambda run: None
        self.refuse_submits: tuple[str, str] | None = None
        self.now_ms = 1_700_000_000_000
        self.listeners: dict[str, list[Callable[[bytes], None]]] = {}
        self.events: list[tuple[str, bytes, dict[str, str]]] = []
        """The stream of events from outside."""

    # -- for tests -----------------------------------------------------------------------------

    def finish(self, run: RunView, state: str = "COMPLETED", **fields: Any) -> None:
        """End a run where it lives."""
        run.state, run.finished_ms = state, run.created_ms + 1_000
        for name, value in fields.items():
            setattr(run, name, value)
        self.notify(run.shard)

    def archive(self, run: RunView) -> None:
        """Move a run to the archive."""
        del self.runs[run.shard][run.id]
        self.plans[ARCHIVE].update(self.plans[run.shard])
        run.archived = True
        self.runs[ARCHIVE][run.id] = run

    def notify(self, shard: int) -> None:
        """Tell those that follow the feed."""
        for callback in list(self.listeners.get(subjects.events(shard), [])):
            callback(b"")

    def sent(self, kind: type[Any]) -> list[Any]:
        """Return the requests of one kind, resent ones too."""
        return [request for _, request in self.requests if isinstance(request, kind)]

    # -- the server ----------------------------------------------------------------------------

    def answer(self, subject: str, data: bytes) -> bytes | None:
        """Return the reply to one message; None: nobody answers."""
        batch = decode(ClientBatch, data)
        fault = self.faults.popleft() if self.faults else ""
        if fault == LOST_REQUEST:
            return None
        if fault == BUSY:
            busy = ClientReply(NOTHING, "busy", "too much to do", 5)
            return encode(ReplyBatch(1, [busy] * len(batch.requests)))
        shard = ARCHIVE
        if subject.startswith("headrace.cmd."):
            shard = int(subject.rsplit(".", 1)[1])
        replies: list[ClientReply] = []
        for request in batch.requests:
            self.requests.append((subject, request))
            result = self._reply(shard, request)
            replies.append(
                ClientReply(NOTHING, *result)
                if isinstance(result, tuple)
                else ClientReply(msgspec.Raw(encode(result)))
            )
        return None if fault == LOST_REPLY else encode(ReplyBatch(1, replies))

    def _reply(self, shard: int, request: ClientRequest) -> Any:
        if isinstance(request, GetInfo):
            workers = self.info.workers if request.workers else []
            return msgspec.structs.replace(self.info, workers=workers)
        if isinstance(request, StorePlan):
            digest = plan_digest(decode_plan(request.plan))
            self.plans[shard][digest] = request.plan
            return digest
        if isinstance(
            request, DefinitionRequest | ScheduleRequest | ListTriggers | VariableRequest
        ):
            if isinstance(request, ListSchedules) and shard != 1:
                return []
            self.system.begin(int(time.time() * 1000))
            found = self.system.request("default", request)
            return tuple(found) if isinstance(found, Refusal) else found
        if isinstance(request, LockRequest | CacheRequest):
            # All live in the one machine, which shard 1 speaks for.
            if isinstance(request, ListLocks | ListCached | ClearCached) and shard != 1:
                return 0 if isinstance(request, ClearCached) else []
            return self._lock(request)
        if isinstance(request, SubmitRun):
            return self._submit(shard, request)
        if isinstance(request, ListRuns):
            return self._list(shard, request)
        run = self.runs[shard].get(request.run)
        if run is None:
            return "not-found", f"no run {request.run}"
        if isinstance(request, GetRun):
            return run if request.steps else msgspec.structs.replace(run, steps=[])
        if isinstance(request, GetPlan):
            return self.plans[shard][run.plan]
        if isinstance(request, GetHistory):
            entries = [e for e in self.history.get(run.id, []) if e.number > request.after]
            return entries[: min(request.limit, 3)]
        if isinstance(request, GetExplanation):
            return Explanation(run=run.id, state=run.state, summary="no worker offers gpu")
        return self._change(run, request)

    def _lock(self, request: ClientRequest) -> Any:
        """Ask the one machine, whose time goes on."""
        self.system.begin(int(time.time() * 1000))
        self.system.fire_timers()
        found = self.system.request("default", request)
        self.system.settle()
        self.system.finish(batch_id="b", epoch=1)
        return tuple(found) if isinstance(found, Refusal) else found

    def _submit(self, shard: int, request: SubmitRun) -> Any:
        if self.refuse_submits is not None:
            return self.refuse_submits
        if request.run in self.runs[ARCHIVE]:
            return "archived", f"run {request.run} has ended and is in the archive"
        if request.request_id in self.accepted:
            return self.accepted[request.request_id]
        if request.plan not in self.plans[shard]:
            return "unknown-plan", request.plan
        if request.run in self.runs[shard]:
            return "conflict", f"run {request.run} exists with another definition or input"
        self.now_ms += 1
        plan = decode_plan(self.plans[shard][request.plan])
        run = RunView(
            id=request.run,
            workflow=plan.name,
            state="PENDING",
            created_ms=self.now_ms,
            started_ms=self.now_ms,
            labels=request.labels,
            priority=request.priority,
            input=request.input,
            plan=request.plan,
            rerun_of=request.rerun_of,
            shard=shard,
        )
        self.runs[shard][run.id] = self.accepted[request.request_id] = run
        self.after_submit(run)
        return run

    def _list(self, shard: int, request: ListRuns) -> RunPage:
        found = [
            run
            for run in self.runs[shard].values()
            if (not request.states or run.state in request.states)
            and (not request.workflow or run.workflow == request.workflow)
            and request.labels.items() <= run.labels.items()
            and run.created_ms >= request.since_ms
        ]
        found.sort(key=lambda run: (run.created_ms, run.id), reverse=True)
        if request.cursor:
            created, _, name = request.cursor.partition(":")
            found = [run for run in found if (run.created_ms, run.id) < (int(created), name)]
        page = [msgspec.structs.replace(run, steps=[]) for run in found[: request.limit]]
        more = len(found) > request.limit
        return RunPage(runs=page, cursor=f"{page[-1].created_ms}:{page[-1].id}" if more else "")

    def _change(self, run: RunView, request: ClientRequest) -> Any:
        if run.state in ("COMPLETED", "FAILED", "CANCELLED"):
            return "conflict", f"run {run.id} has ended"
        if isinstance(request, CancelRun):
            self.finish(run, "CANCELLED", reason=request.reason)
        elif isinstance(request, PauseRun):
            run.conditions = ["PAUSED"]
        elif isinstance(request, ResumeRun):
            run.conditions = []
        elif isinstance(request, SignalRun):
            self.signals.append(request)
        return None


class FakeTransport:
    """A client's way to a `FakeCluster` in the same process."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.published: list[tuple[str, bytes]] = []
        self.objects: dict[tuple[str, str], bytes] = {}
        self.closed = False

    @property
    def address(self) -> str:
        return "fake://cluster"

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        answer = self.cluster.answer(subject, data)
        if answer is None:
            raise Unreachable("nobody answers")
        return answer

    async def publish(self, subject: str, data: bytes) -> None:
        self.published.append((subject, data))
        for worker in self.cluster.info.workers:
            if subject == subjects.worker_orders(
                worker.namespace, worker.id, worker.incarnation, worker.capabilities
            ):
                worker.state = "Draining"

    async def subscribe(self, subject: str, callback: Callable[[bytes], None]) -> Unsubscribe:
        listeners = self.cluster.listeners.setdefault(subject, [])
        listeners.append(callback)

        async def unsubscribe() -> None:
            listeners.remove(callback)

        return unsubscribe

    async def put_object(self, bucket: str, name: str, data: bytes) -> None:
        self.objects[bucket, name] = data

    async def get_object(self, bucket: str, name: str) -> bytes:
        try:
            return self.objects[bucket, name]
        except KeyError:
            raise NotFound(f"no object {name} in bucket {bucket}") from None

    async def store(
        self, subject: str, data: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bool]:
        name = headers.get("Nats-Msg-Id", "")
        known = self.cluster.events
        for number, (_, _, found) in enumerate(known, 1):
            if name and found.get("Nats-Msg-Id") == name:
                return number, True
        known.append((subject, data, dict(headers)))
        return len(known), False

    async def stored(
        self, stream: str, subject: str, *, after: int = 0
    ) -> AsyncIterator[tuple[int, bytes]]:
        assert stream == subjects.LOGS_STREAM
        for number, lines in enumerate(list(self.cluster.logs), 1):
            if number > after and subject.endswith(lines.run.replace("/", ".")):
                yield number, encode(lines)

    async def close(self) -> None:
        self.closed = True


GROUPS = (subjects.INFO, subjects.archive("*"))


def serve(bus: Bus, cluster: FakeCluster) -> None:
    """Answer on a real broker until *bus* is closed."""

    def on_message(message: Message) -> None:
        answer = cluster.answer(message.subject, message.data)
        if answer is not None:
            bus.respond(message, answer)

    for subject in ("headrace.cmd.*.*", *GROUPS, *map(subjects.everybody, GROUPS)):
        bus.subscribe(subject, on_message)
