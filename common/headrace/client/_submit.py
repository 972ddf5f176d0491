"""Starting runs, one or thousands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from headrace.client._calls import (
    AGAIN,
    ATTEMPT_S,
    PAUSE_S_MIN,
    Calls,
    Pauses,
    refusal,
    result_of,
)
from headrace.client._ids import RequestIds, RunIds
from headrace.client._large import LargeValues
from headrace.errors import Busy, HeadraceError, InvalidRequest, Unavailable, Unreachable
from headrace.messages import ClientReply, GetRun, RunView, StorePlan, SubmitRun, encode, subjects
from headrace.plan import Plan, decode_plan, encode_plan, plan_digest
from headrace.telemetry import current_traceparent

MUTATION_S = 15.0
"""How long a mutation is sent again; its `not_after_ms` is as far away."""
BATCH_MAX = 256
BATCH_BYTES_MAX = 256 * 1024
"""Estimated bytes of one message of submits; a single larger one goes alone."""
IN_FLIGHT_MAX = 4
"""Messages to one shard at a time."""
PLANS_MAX = 256
"""Plans whose digest is remembered."""
UNKNOWN_PLAN = "unknown-plan"
ARCHIVED = "archived"
"""Codes of replies to a submit that are no refusals."""


class Compiled(Protocol):
    """What a compiler returns: something that holds a plan."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One run to start; see `Client.submit` for the fields."""

    plan: Plan
    input: dict[str, Any] = {}
    run_id: str = ""
    """Empty: the client makes one."""
    labels: dict[str, str] = {}
    priority: int = 0
    durability: str = "journal"
    carried: dict[str, bytes] = {}
    rerun_of: str = ""
    fairness: tuple[str, float] = ("", 0.0)
    """Key and weight."""


class _Item:
    """A submission on its way."""

    __slots__ = ("digest", "index", "request", "shard", "size")

    def __init__(self, index: int, shard: int, digest: str, request: SubmitRun) -> None:
        self.index, self.shard, self.digest, self.request = index, shard, digest, request
        self.resize()

    def resize(self) -> None:
        """Estimate the bytes on the wire."""
        request = self.request
        self.size = len(encode(request.input)) + sum(map(len, request.carried.values())) + 200


class Submitter:
    """Builds submits, and sends them until they are acknowledged or refused."""

    def __init__(
        self,
        calls: Calls,
        requests: RequestIds,
        *,
        actor: str,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._calls, self._now_s = calls, now_s
        self._large = LargeValues(calls)
        self._requests = requests
        self._runs = RunIds()
        self._actor = actor
        self._plans: dict[int, tuple[Plan, str, bytes]] = {}
        self._known: dict[int, set[str]] = {}
        """Shard -> digests of plans that it was seen to know."""

    async def submit(self, submission: Submission) -> tuple[int, RunView]:
        """Start one run; return its shard and its first view."""
        item = await self._slim(self._item(0, submission))
        plan = self._plan(submission.plan)
        until = _now() + MUTATION_S
        key = subjects.run_key(self._calls.namespace, item.request.run)
        level = submission.durability or "journal"

        def subject() -> str:
            # Owners and slots move: the newest table counts for every try.
            item.shard = self._calls.shard(key, level)
            return subjects.command(self._calls.namespace, item.shard)

        reply = await self._calls.reply(subject, item.request, within_s=MUTATION_S)
        if reply.code == UNKNOWN_PLAN:
            await self._store(item.shard, plan[2], until)
            left_s = max(until - _now(), PAUSE_S_MIN)
            reply = await self._calls.reply(subject, item.request, within_s=left_s)
        if reply.code == UNKNOWN_PLAN:
            # Stored, and by another digest: the coordinator leaves out what it does not know.
            raise Unavailable(
                "the coordinators do not know all that this workflow was compiled to: they are of "
                f"release {self._calls.release or 'unknown'}, and this client is of another"
            )
        if reply.code == ARCHIVED:
            return item.shard, await self._archived(item)
        if reply.code:
            raise refusal(reply)
        self._known.setdefault(item.shard, set()).add(item.digest)
        return item.shard, result_of(RunView, reply.result)

    async def submit_many(self, submissions: Sequence[Submission]) -> list[RunView | HeadraceError]:
        """Start many runs; return, in their order, the first view or the refusal of each.

        Sends arrays, a few at a time to each shard. What was not answered within 15 s is
        `Unreachable` or `Busy` in the result: it may still have been taken.
        """
        outcomes: list[RunView | HeadraceError | None] = [None] * len(submissions)
        by_shard: dict[int, list[_Item]] = {}
        plans: dict[str, bytes] = {}
        for index, submission in enumerate(submissions):
            try:
                item = await self._slim(self._item(index, submission))
            except HeadraceError as error:
                outcomes[index] = error
                continue
            plans[item.digest] = self._plan(submission.plan)[2]
            by_shard.setdefault(item.shard, []).append(item)
        async with asyncio.TaskGroup() as group:
            for shard, items in by_shard.items():
                group.create_task(
                    self._send_shard(shard, items, plans, outcomes), name=f"submit-{shard}"
                )
        lost = Unreachable("the submit was not answered")
        return [outcome if outcome is not None else lost for outcome in outcomes]

    # -- one shard -----------------------------------------------------------------------------

    async def _send_shard(
        self,
        shard: int,
        items: list[_Item],
        plans: Mapping[str, bytes],
        outcomes: list[RunView | HeadraceError | None],
    ) -> None:
        until = _now() + MUTATION_S
        try:
            for digest in {item.digest for item in items} - self._known.get(shard, set()):
                await self._store(shard, plans[digest], until)
                self._known.setdefault(shard, set()).add(digest)
        except HeadraceError as error:
            for item in items:
                outcomes[item.index] = error
            return
        gate = asyncio.Semaphore(IN_FLIGHT_MAX)

        async def send(chunk: list[_Item]) -> None:
            try:
                await self._send_chunk(shard, chunk, plans, outcomes)
            finally:
                gate.release()

        async with asyncio.TaskGroup() as group:
            for chunk in _chunks(items):
                await gate.acquire()
                self._renew(chunk)
                group.create_task(send(chunk), name=f"submit-{shard}-{chunk[0].index}")

    def _renew(self, chunk: list[_Item]) -> None:
        """Give the items their full time from now on: they may have waited behind others."""
        not_after_ms = self._not_after_ms()
        for item in chunk:
            item.request = msgspec.structs.replace(item.request, not_after_ms=not_after_ms)

    async def _send_chunk(
        self,
        shard: int,
        chunk: list[_Item],
        plans: Mapping[str, bytes],
        outcomes: list[RunView | HeadraceError | None],
    ) -> None:
        """Send *chunk*, and again what was not taken, until all have an outcome or time is over."""
        until = _now() + MUTATION_S
        pauses = Pauses()
        subject = self._subject(shard)
        while True:
            timeout_s = max(min(ATTEMPT_S, until - _now()), PAUSE_S_MIN)
            trouble: HeadraceError | None = None
            try:
                replies = await self._calls.exchange(
                    subject(), [item.request for item in chunk], timeout_s=timeout_s
                )
                gone = [i for i, r in zip(chunk, replies, strict=True) if r.code == ARCHIVED]
                chunk, missing, trouble = _sort_replies(chunk, replies, outcomes)
                for item in gone:
                    outcomes[item.index] = await self._archived(item)
                for digest in missing:
                    await self._store(shard, plans[digest], until)
            except (Busy, Unreachable) as error:
                trouble = error
            except HeadraceError as error:
                trouble, until = error, 0.0
            if not chunk:
                return
            pause_s = pauses.after(trouble)
            if _now() + pause_s >= until:
                if isinstance(trouble, Unreachable):
                    trouble = self._calls.given_up(trouble, MUTATION_S)
                for item in chunk:
                    outcomes[item.index] = trouble
                return
            await asyncio.sleep(pause_s)
            await self._calls.relearn()

    async def _archived(self, item: _Item) -> RunView:
        """Return the run that this very submit started, and that has ended since."""
        request = GetRun(run=item.request.run, steps=False)
        archive = subjects.archive(self._calls.namespace)
        return result_of(RunView, await self._calls.ask(lambda: archive, request))

    async def _store(self, shard: int, plan: bytes, until: float) -> None:
        left_s = max(until - _now(), PAUSE_S_MIN)
        await self._calls.ask(self._subject(shard), StorePlan(plan=plan), within_s=left_s)

    # -- building ------------------------------------------------------------------------------

    def _item(self, index: int, submission: Submission) -> _Item:
        explicit = bool(submission.run_id)
        run = submission.run_id or self._runs.next()
        if not subjects.valid_name(run):
            raise InvalidRequest(f"not a run id: {run!r} (letters, digits, - and _, at most 128)")
        key = subjects.run_key(self._calls.namespace, run)
        shard = self._calls.routes.shard(key, submission.durability or "journal")
        digest = self._plan(submission.plan)[1]
        request = SubmitRun(
            run=run,
            request_id=self._requests.next(),
            not_after_ms=self._not_after_ms(),
            actor=self._actor,
            plan=digest,
            input=submission.input,
            labels=_traced(submission.labels),
            priority=submission.priority,
            explicit=explicit,
            rerun_of=submission.rerun_of,
            carried=submission.carried,
            fairness_key=submission.fairness[0],
            fairness_weight=submission.fairness[1],
        )
        return _Item(index, shard, digest, request)

    async def _slim(self, item: _Item) -> _Item:
        """Put the item's large values into the object store."""
        request = item.request
        self._large.check(item.size, "input")
        if request.input and not self._large.fits(item.size):
            values = await self._large.check_in(request.run, request.input)
            item.request = msgspec.structs.replace(request, input=values)
            item.resize()
        return item

    def _not_after_ms(self) -> int:
        return int((self._now_s() + MUTATION_S) * 1000)

    def _plan(self, plan: Plan) -> tuple[Plan, str, bytes]:
        """Return the plan with its digest and encoding; made once for each plan object."""
        entry = self._plans.get(id(plan))
        if entry is None or entry[0] is not plan:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            data = encode_plan(plan)
            # The server computes the digest of what it decodes. Fields that equal their default
            # without being the very same object are encoded before that, and left out after it.
            entry = self._plans[id(plan)] = (plan, plan_digest(decode_plan(data)), data)
        return entry

    def _subject(self, shard: int) -> Callable[[], str]:
        return lambda: subjects.command(self._calls.namespace, shard)


def _sort_replies(
    chunk: list[_Item],
    replies: list[ClientReply],
    outcomes: list[RunView | HeadraceError | None],
) -> tuple[list[_Item], set[str], HeadraceError | None]:
    """Note final replies; return what must be sent again, the plans it misses, and the trouble."""
    left: list[_Item] = []
    missing: set[str] = set()
    trouble: HeadraceError | None = None
    for item, reply in zip(chunk, replies, strict=True):
        if not reply.code:
            outcomes[item.index] = result_of(RunView, reply.result)
        elif reply.code == UNKNOWN_PLAN:
            left.append(item)
            missing.add(item.digest)
        elif reply.code in AGAIN:
            left.append(item)
            trouble = refusal(reply)
        elif reply.code != ARCHIVED:
            outcomes[item.index] = refusal(reply)
    return left, missing, trouble


def _chunks(items: list[_Item]) -> list[list[_Item]]:
    chunks: list[list[_Item]] = []
    size = BATCH_BYTES_MAX + 1
    for item in items:
        if size + item.size > BATCH_BYTES_MAX or len(chunks[-1]) >= BATCH_MAX:
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += item.size
    return chunks


def _now() -> float:
    return asyncio.get_running_loop().time()


def _traced(labels: dict[str, str]) -> dict[str, str]:
    """Return *labels* with the caller's trace context, if it has one."""
    found = current_traceparent()
    return {**labels, subjects.TRACE_LABEL: found} if found else labels
