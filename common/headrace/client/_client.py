"""The client: everything that a user can do with runs, over one connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from headrace.client import _follow, _rerun
from headrace.client._cached import CachedResults
from headrace.client._calls import Calls, result_of
from headrace.client._definitions import Definitions
from headrace.client._drain import drain
from headrace.client._events import Events
from headrace.client._function import FunctionCalls
from headrace.client._ids import RequestIds, user_name
from headrace.client._large import LargeValues
from headrace.client._locks import Locks
from headrace.client._lookup import Lookup
from headrace.client._namespaces import NamespaceSettings
from headrace.client._patch import patch_run
from headrace.client._schedules import Schedules
from headrace.client._submit import MUTATION_S, Compiled, Submission, Submitter
from headrace.client._transport import Transport
from headrace.client._variables import Variables
from headrace.errors import Conflict, HeadraceError, InvalidRequest, Unreachable
from headrace.messages import (
    CancelRun,
    Explanation,
    GetEvidence,
    GetExplanation,
    GetHistory,
    GetInfo,
    GetPlan,
    GetRun,
    HistoryEntry,
    ListRuns,
    LogLines,
    PatchRun,
    PatchView,
    PauseRun,
    ResolveStep,
    ResumeRun,
    RunPage,
    RunView,
    ServerInfo,
    SignalRun,
    WorkerView,
    subjects,
)
from headrace.plan import Plan, decode_plan, plan_digest

GATHER_S = 1.5
"""A coordinator waits so long for the others when it is asked about the whole cluster."""
HISTORY_PAGE = 10_000
RESET_S = 60.0
"""So long a reset waits for the steps of the old run to be dead."""
HISTORY_PAGES_MAX = 10_000
LIST_MAX = 10_000


class Client(FunctionCalls):
    """A user's view of a cluster in one namespace. Belongs to one event loop.

    Every method may raise `Unreachable` or `Busy` once its time is over: mutations are sent again
    for 15 s, under the same request id, and queries for `timeout_s`. Whether a mutation that
    ended so took effect is unknown; looking at the run tells.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        namespace: str,
        timeout_s: float = 5.0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """*now_s*: the clock of what a request's end is told by; a test's engine has its own."""
        if not subjects.valid_name(namespace):
            raise InvalidRequest(f"not a namespace: {namespace!r} (letters, digits, - and _)")
        self.namespace, self._transport = namespace, transport
        self._calls = Calls(transport, namespace, timeout_s=timeout_s)
        self._lookup = Lookup(self._calls)
        self._requests, self._actor, self._now_s = RequestIds(), user_name(), now_s
        self._large = LargeValues(self._calls)
        self.definitions = Definitions(self._calls, self._stamp)
        """What is registered, by name and version; `settings`: of the namespace."""
        self.settings = NamespaceSettings(self._calls, self._stamp)
        self.variables = Variables(self._calls, self._stamp)
        self.schedules = Schedules(self._calls, self._stamp, self.submit)
        """What begins runs at their times; `events`: and by what is published."""
        self.events, self.locks = Events(self._calls), Locks(self._calls, self._stamp)
        self.cached = CachedResults(self._calls, self._stamp)
        self._submitter = Submitter(self._calls, self._requests, actor=self._actor, now_s=now_s)

    @classmethod
    async def connect(
        cls,
        servers: str | Sequence[str],
        *,
        namespace: str = "default",
        timeout_s: float = 5.0,
        access: Mapping[str, str] | None = None,
    ) -> Self:
        """Connect to the broker and learn the cluster's slot table.

        *servers* are NATS addresses, as a list or separated by commas. Raises `Unreachable`,
        which names them, within *timeout_s* if no broker or no coordinator answers. *access*: how
        to log in and whom to trust, as keys of section `broker` of the configuration (`token`,
        `creds_file`, `tls_ca_file`, …). Raises `InvalidConfig` for a file that cannot be used.
        """
        from headrace.client._nats import NatsTransport

        listed = servers.split(",") if isinstance(servers, str) else servers
        addresses = [address.strip() for address in listed]
        clock = asyncio.get_running_loop().time
        begun = clock()
        transport = await NatsTransport.connect(addresses, timeout_s=timeout_s, access=access or {})
        client = cls(transport, namespace=namespace, timeout_s=timeout_s)
        try:
            await client.learn(within_s=max(timeout_s - (clock() - begun), 0.1))
        except BaseException:
            await transport.close()
            raise
        return client

    async def learn(self, *, within_s: float | None = None) -> None:
        """Learn the slot table; `connect` has done so."""
        try:
            await self._calls.learn(within_s=within_s)
        except Unreachable as error:
            raise Unreachable(f"no coordinator answers at {self._transport.address}") from error

    @property
    def address(self) -> str:
        """The servers as named by the user, without logins."""
        return self._transport.address

    async def close(self) -> None:
        """Close the connection; idempotent."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # -- starting ------------------------------------------------------------------------------

    async def submit(
        self,
        plan: Plan | Compiled,
        input: Mapping[str, Any] | None = None,
        *,
        run_id: str = "",
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        durability: str = "journal",
        carried: Mapping[str, bytes] | None = None,
        rerun_of: str = "",
        fairness: tuple[str, float] = ("", 0.0),
    ) -> RunView:
        """Start a run; once this returns it is never lost (durability `journal`).

        *input* must have been checked (`headrace.plan.check_inputs`). Without *run_id* the client
        makes one that sorts by time. A taken *run_id* gives the existing run if definition and
        input are the same, else `Conflict`. *carried*: path -> outputs (a msgpack map) to take
        over. *fairness*: key and weight of the turns that its steps take; empty and 0: as the
        workflow says. Raises also `LimitExceeded`, `InvalidRequest` and `Unavailable`.
        """
        submission = Submission(
            plan=plan if isinstance(plan, Plan) else plan.plan,
            input=dict(input or {}),
            run_id=run_id,
            labels=dict(labels or {}),
            priority=priority,
            durability=durability,
            carried=dict(carried or {}),
            rerun_of=rerun_of,
            fairness=fairness,
        )
        shard, view = await self._submitter.submit(submission)
        self._lookup.remember(view.id, shard)
        return view

    async def submit_many(
        self, submissions: Sequence[Submission]
    ) -> Sequence[RunView | HeadraceError]:
        """Start many runs at once; one view or error for each, in their order."""
        return await self._submitter.submit_many(submissions)

    async def rerun(
        self, run: str, *, failed: bool = False, from_step: str = "", run_id: str = ""
    ) -> RunView:
        """Start a new run with the plan, input, labels and level of an ended one.

        With *failed* the recorded results of completed steps are taken over (a job of several
        steps only as a whole, as its workspace is gone); with *from_step*, a path, those that do
        not come after that step. Raises `Conflict` for a live run, `InvalidRequest` for a path
        that it does not have.
        """
        old = await self.get(run)
        if old.state not in _follow.ENDED:
            raise Conflict(f"run {run} has not ended ({old.state}); cancel it first")
        plan = await self.plan(run)
        carried: dict[str, bytes] = {}
        if failed or from_step:
            _rerun.check_has_steps(run, plan)
            again = _rerun.from_step(old.steps, plan, from_step) if from_step else ()
            carried = _rerun.carried_results(old.steps, plan, again=again)
        return await self._again(old, plan, carried, run_id)

    async def reset(
        self, run: str, *, to_event: int, cancel: bool = False, run_id: str = ""
    ) -> RunView:
        """Start a new run that takes over what *run* had recorded up to event *to_event*.

        A live run is cancelled first, and waited for, if *cancel*; else it raises `Conflict`.
        Raises `InvalidRequest` for an event that the run does not have.
        """
        old = await self.get(run, at_event=to_event)
        plan = await self.plan(run)
        _rerun.check_has_steps(run, plan)
        carried = _rerun.carried_results(old.steps, plan)
        now = await self.get(run, steps=False)
        if now.state not in _follow.ENDED:
            if not cancel:
                raise Conflict(f"run {run} has not ended ({now.state}); cancel it first")
            await self.cancel(run, reason=f"reset to event {to_event}")
            now = await self.wait(run, RESET_S)
            if now.state not in _follow.ENDED:
                raise Unreachable(f"run {run} is being cancelled, and still runs; reset it later")
        return await self._again(now, plan, carried, run_id)

    async def _again(
        self, old: RunView, plan: Plan, carried: dict[str, bytes], run_id: str
    ) -> RunView:
        levels = (level for level, shards in self._calls.level_shards if old.shard in shards)
        return await self.submit(
            plan,
            old.input if isinstance(old.input, dict) else {},
            run_id=run_id,
            labels=old.labels,
            priority=old.priority,
            durability=next(levels, "journal"),
            carried=carried,
            rerun_of=old.id,
            fairness=(old.fairness_key, old.fairness_weight),
        )

    # -- looking -------------------------------------------------------------------------------

    async def get(
        self,
        run: str,
        *,
        wait_ms: int = 0,
        steps: bool = True,
        at_event: int | None = None,
        at_ms: int = 0,
    ) -> RunView:
        """Return a run; with *wait_ms* once it has ended, or then. Raises `NotFound`.

        With *at_event* (a number in its history) or *at_ms* (since the epoch) the run as it was
        then; raises `InvalidRequest` for what the history does not reach.
        """
        request = GetRun(run=run, wait_ms=wait_ms, steps=steps, at_event=at_event, at_ms=at_ms)
        return await self._lookup.query(run, request, RunView, wait_s=wait_ms / 1000)

    async def whole(self, view: RunView) -> RunView:
        """Return *view* with what lies in the object store instead of references to it.

        That is for values over the inline limit in inputs and outputs. Raises `Unreachable`.
        """
        return await self._large.fill(view)

    async def wait(
        self,
        run: str,
        timeout_s: float | None = None,
        *,
        outage_s: float = _follow.OUTAGE_S_MAX,
        on_trouble: _follow.Trouble | None = None,
        on_rest: _follow.Rest | None = None,
    ) -> RunView:
        """Return the run once it has ended, or as it is after *timeout_s*.

        Lives through an outage of at most *outage_s*; *on_trouble* is told once for each.
        *on_rest* is shown the run when it waits for somebody, once for each reason.
        """
        return await _follow.wait_end(
            lambda wait_s: self.get(run, wait_ms=int(wait_s * 1000)),
            timeout_s=timeout_s,
            outage_s=outage_s,
            on_trouble=on_trouble,
            on_rest=on_rest,
        )

    async def watch(
        self,
        run: str,
        *,
        outage_s: float = _follow.OUTAGE_S_MAX,
        on_trouble: _follow.Trouble | None = None,
    ) -> AsyncIterator[RunView]:
        """Yield the run now and after each change; ends with the view of the ended run."""
        first = await self.get(run)
        async for view in _follow.changes(
            lambda wait_s: self.get(run, wait_ms=int(wait_s * 1000)),
            self._transport,
            first.shard,
            outage_s=outage_s,
            on_trouble=on_trouble,
        ):
            yield view

    async def list(
        self,
        *,
        states: Sequence[str] = (),
        workflow: str = "",
        labels: Mapping[str, str] | None = None,
        since_ms: int = 0,
        limit: int = 50,
        cursor: str = "",
    ) -> RunPage:
        """Return a page of open and closed runs, newest first, without their steps.

        Asks every shard's owner and the archive, and fails if one does not answer.
        """
        if not 0 < limit <= LIST_MAX:
            raise InvalidRequest(f"limit {limit}: from 1 to {LIST_MAX}")
        query = ListRuns(
            states=list(states),
            workflow=workflow,
            labels=dict(labels or {}),
            since_ms=since_ms,
            limit=limit,
        )
        return await self._lookup.page(query, cursor=cursor)

    async def history(self, run: str, *, after: int = 0) -> Sequence[HistoryEntry]:
        """Return the events of a run behind number *after*, in order. Raises `NotFound`."""
        entries: list[HistoryEntry] = []
        for _ in range(HISTORY_PAGES_MAX):
            after = entries[-1].number if entries else after
            request = GetHistory(run=run, after=after, limit=HISTORY_PAGE)
            page = await self._lookup.query(run, request, list[HistoryEntry])
            fresh = [entry for entry in page if entry.number > after]
            entries += fresh
            if not fresh:
                break
        return entries

    async def evidence(self, run: str) -> bytes:
        """Return the text of a run's bundle, see `headrace.evidence`. Raises `NotFound`."""
        return await self._lookup.query(run, GetEvidence(run=run), bytes)

    async def follow_history(
        self,
        run: str,
        *,
        after: int = 0,
        outage_s: float = _follow.OUTAGE_S_MAX,
        on_trouble: _follow.Trouble | None = None,
    ) -> AsyncIterator[Sequence[HistoryEntry]]:
        """Yield the events of a run behind number *after* as they happen, until it has ended."""
        async for _ in self.watch(run, outage_s=outage_s, on_trouble=on_trouble):
            # The last view is that of the ended run: what is fetched after it is complete.
            entries = await _follow.patiently(
                partial(self.history, run, after=after), outage_s=outage_s, on_trouble=on_trouble
            )
            if entries:
                after = entries[-1].number
                yield entries

    async def explain(self, run: str) -> Explanation:
        """Return why a run is where it is. Raises `NotFound`."""
        raw = await self._lookup.in_shards(run, GetExplanation(run=run))
        if raw is not None:
            return await self.locks.complete(result_of(Explanation, raw))
        view = result_of(RunView, await self._lookup.in_archive(run, GetRun(run=run, steps=False)))
        return Explanation.of_ended(run, view.state, view.reason)

    async def plan(self, run: str) -> Plan:
        """Return the plan that a run is pinned to. Raises `NotFound`."""
        return decode_plan(await self._lookup.query(run, GetPlan(run=run), bytes))

    async def artifact(self, run: str, name: str) -> bytes:
        """Return an artifact of a run, packed as tar.gz. Raises `NotFound`."""
        key = subjects.artifact(subjects.run_key(self.namespace, run), name)
        return await self._transport.get_object(subjects.BLOB_BUCKET, key)

    async def logs(
        self, run: str, *, step: str = "", follow: bool = False
    ) -> AsyncIterator[LogLines]:
        """Yield what the run's steps wrote; with *follow* until the run has ended."""
        first = await self.get(run, steps=False)
        async for lines in _follow.log_lines(
            lambda wait_s: self.get(run, wait_ms=int(wait_s * 1000), steps=False),
            self._transport,
            first.shard,
            subjects.run_key(self.namespace, run),
            step=step,
            follow=follow,
        ):
            yield lines

    async def info(self, *, workers: bool = False) -> ServerInfo:
        """Return the state of the cluster; with *workers* also the registry of workers."""
        request = GetInfo(workers=workers)
        # With workers it is gathered from all coordinators, one of which may not answer.
        wait_s = GATHER_S if workers else 0.0
        raw = await self._calls.ask(lambda: subjects.INFO, request, wait_s=wait_s)
        return result_of(ServerInfo, raw)

    # -- changing ------------------------------------------------------------------------------

    async def cancel(self, run: str, *, reason: str = "", force: bool = False) -> None:
        """Stop a run. Returns once that is recorded. Raises `NotFound`, `Conflict`.

        A workflow function is asked to let go, and may clean up, unless *force*.
        """
        await self._change(run, CancelRun(run=run, reason=reason, force=force, **self._stamp()))

    async def pause(self, run: str, *, reason: str = "") -> None:
        """Dispatch nothing more of a run; running steps finish."""
        await self._change(run, PauseRun(run=run, reason=reason, **self._stamp()))

    async def resume(self, run: str) -> None:
        """Go on after a pause."""
        await self._change(run, ResumeRun(run=run, **self._stamp()))

    async def patch(self, run: str, plan: Plan | Compiled, *, dry_run: bool = False) -> PatchView:
        """Let a live run go on with another plan: nodes that have not begun are replaced.

        With *dry_run* only say what would change. Raises `Conflict` with every node that has
        begun and is not as it was, and for a run that has ended; `NotFound`.
        """
        new = plan if isinstance(plan, Plan) else plan.plan
        request = PatchRun(run=run, plan=plan_digest(new), dry_run=dry_run, **self._stamp())
        return await patch_run(self._calls, self._lookup, request, new)

    async def resolve(
        self, run: str, step: str, resolution: str, output: dict[str, Any] | None = None
    ) -> None:
        """Decide on the step at a path whose end is open: `completed`, `failed` or `retry`.

        Raises also `InvalidRequest`.
        """
        request = ResolveStep(
            run=run, step=step, resolution=resolution, output=output or {}, **self._stamp()
        )
        await self._change(run, request)

    async def signal(
        self, run: str, name: str, payload: Any = None, *, correlation_key: str = ""
    ) -> None:
        """Deliver a signal once; it is kept if the run does not wait for it yet.

        With a *correlation_key* only a wait with the same one takes it.
        Raises also `LimitExceeded`.
        """
        if not subjects.valid_name(name):
            raise InvalidRequest(f"not a signal name: {name!r} (letters, digits, - and _)")
        payload = await self._large.slim(run, payload, "payload")
        request = SignalRun(
            run=run,
            name=name,
            payload=payload,
            correlation_key=correlation_key,
            **self._stamp(),
        )
        await self._change(run, request)

    async def drain(self, worker: str, *, grace_ms: int | None = None) -> WorkerView:
        """Ask a worker to finish what it has, and stop; returns once it is draining or gone.

        *worker* is its id, or `id.incarnation` for this life only. Without *grace_ms* its steps
        have the time that the worker is configured with.
        The order is not kept by the cluster, so it is sent until its effect is seen. Raises
        `NotFound` for an unknown worker, `Unreachable` when it does not obey in time.
        """
        look = partial(self.info, workers=True)
        return await drain(self._transport, look, worker, grace_ms)

    async def _change(
        self, run: str, request: CancelRun | PauseRun | ResumeRun | SignalRun | ResolveStep
    ) -> None:
        await self._lookup.change(run, request, within_s=MUTATION_S)

    def _stamp(self) -> dict[str, Any]:
        return {
            "request_id": self._requests.next(),
            "not_after_ms": int((self._now_s() + MUTATION_S) * 1000),
            "actor": self._actor,
        }
