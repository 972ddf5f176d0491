"""`LocalEngine`: workflows inside this process, with the semantics of a cluster.

The owner, its log, the archive and the worker's executor are the real ones; what a broker carries
in a cluster are function calls here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar

from headrace.client import ENDED, Client
from headrace.coordinator.core import Limits, Run, TickEffects
from headrace.coordinator.core.views import run_view
from headrace.coordinator.runtime.archiver import Archiver, unpack
from headrace.coordinator.runtime.owner import Owner
from headrace.coordinator.runtime.ports import NoPeers
from headrace.errors import HeadraceError, InvalidRequest, Unavailable
from headrace.flowctl import load_definition
from headrace.language import BUILTIN_HANDLERS
from headrace.local.asking import Asking
from headrace.local.dispatch import (
    WINDOW_MAX,
    WORKER,
    DirectAssignments,
    LocalDispatch,
    Offer,
    OnLog,
)
from headrace.local.functions import FunctionClient
from headrace.local.headstart import HeadStart
from headrace.local.lines import KeptLines
from headrace.local.starts import Starts
from headrace.local.storage import LIMITS, Storage, open_storage
from headrace.local.transport import SHARD, LocalTransport
from headrace.messages import PatchView, RunView, subjects
from headrace.plan import Plan
from headrace.sdk import App, Handle, Workflow
from headrace.telemetry import Clock, SystemClock
from headrace.worker.artifacts import FileArtifacts
from headrace.worker.builtin import builtin_registry
from headrace.worker.executor import Executor
from headrace.worker.handlers import Registry
from headrace.worker.parked import COUNT_MAX, ParkedFunctions
from headrace.worker.payloads import Payloads
from headrace.worker.ports import ValueSource
from headrace.worker.sources import secrets_at, variables_at
from headrace.worker.turns import Turns
from headrace.worker.workspaces import WorkspaceLimits, Workspaces

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

SLOTS: Final = 16
RETENTION_MS: Final = 30 * 86_400_000
RETENTION_RUNS: Final = 10_000
GATHER_S: Final = 0.05
"""Ended runs go to the archive this often, in batches: each is a commit beside the log's own."""
WATCH_S: Final = 0.1
"""Between two views of a run."""
WATCH_SHARE: Final = 5.0
"""And at least so many times as long as it took to make the last one."""
SNAPSHOT_S: Final = 60.0
"""For the last snapshot: at level snapshot, what it does not hold is lost."""
LOG_ENTRIES: Final = 2_000
"""A journal with more entries is snapshot on leaving."""
KILL_S: Final = 10.0
"""For steps that are stopped at the end to die: their own grace, and a little."""


class LocalEngine(Asking):
    """An engine for one event loop: ``async with LocalEngine(…) as engine``.

    On leaving, what still runs is killed and is not recorded: at level journal, and at level
    snapshot up to the last snapshot, the runs go on when the folder is opened again.
    """

    def __init__(
        self,
        *,
        persistence: str = "memory",
        path: Path | str | None = None,
        slots: int = SLOTS,
        handlers: Registry | Iterable[object] = (),
        apps: Iterable[App] = (),
        capabilities: Iterable[str] | None = None,
        namespace: str = "default",
        on_log: OnLog | None = None,
        secrets: ValueSource | None = None,
        variables: ValueSource | None = None,
        artifacts: Path | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
        own_process: bool = False,
    ) -> None:
        """*path* is a folder, needed by the levels `snapshot` and `journal`.

        *handlers* are functions marked by `@handler`, beside the built-in ones, or a whole
        registry; *apps* are those of `headrace.sdk` whose runs go on here (that of a workflow
        that is started here is added by itself). *capabilities* are the labels that this machine
        offers; None: any that a workflow asks for. *own_process*: all children of this process
        are steps' (see `open_storage`). Raises `InvalidRequest`, and `InvalidConfig` for a bad
        handler.
        """
        if not subjects.valid_name(namespace):
            raise InvalidRequest(f"not a namespace: {namespace!r}")
        if slots < 1:
            raise InvalidRequest(f"slots: at least 1, not {slots}")
        self.namespace = namespace
        self.registry = handlers if isinstance(handlers, Registry) else _registry(handlers)
        for app in apps:
            self.registry.serve(app)
        self._persistence, self._slots = persistence, slots
        self._path = None if path is None else Path(path).absolute()
        self._own_process = own_process
        self._capabilities = None if capabilities is None else tuple(capabilities)
        self._secrets, self._variables, self._limits = secrets, variables, limits or LIMITS
        self._artifacts = artifacts
        self._clock: Clock = clock or SystemClock()
        self._short_retry_ms: int | None = None
        self._cached_functions = COUNT_MAX
        self._now_ms = self._clock.now_ms
        self.starts = Starts(namespace, self._now_ms)
        self._listeners: set[Callable[[bytes], None]] = set()
        self._lines = KeptLines(SHARD, on_log)
        self._storage: Storage | None = None
        self._owner: Owner | None = None
        self._owning: asyncio.Task[None] | None = None
        self._error: HeadraceError | None = None

    # -- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the folder, continue its runs. Raises `HeadraceError`."""
        storage = self._storage = await open_storage(
            self._persistence, self._path, self._clock, own_process=self._own_process
        )
        try:
            await self._start(storage)
        except BaseException:
            await self.close()
            raise
        self.client.use()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _start(self, storage: Storage) -> None:
        now_ms = self._now_ms()
        await storage.archive.expire(before_ms=now_ms - RETENTION_MS, limit=RETENTION_RUNS)
        self._builtin = frozenset(BUILTIN_HANDLERS)
        offered = [name for name in self.registry.describe()]
        self._dispatch = LocalDispatch(
            Offer(self._capabilities, offered),
            self._clock,
            slots=self._slots,
            namespace=self.namespace,
            incarnation=storage.incarnation,
        )
        self._executor = self._make_executor(storage)
        self._archiver = Archiver(storage.archive, SHARD, gather_s=GATHER_S)
        owner = self._owner = Owner(
            shard_log=storage.log,
            identity=f"local.{storage.incarnation}",
            clock=self._clock,
            chance=random.random,
            new_id=_ids(storage.incarnation),
            home=lambda _key: SHARD,
            dispatch=self._dispatch,
            peers=NoPeers(),
            snapshots=storage.snapshots,
            archiver=self._archiver,
            builtin=self._builtin,
            limits=self._limits,
            observe=self._observe,
        )
        self._dispatch.connect(owner, self._executor)
        self._head_start = HeadStart(
            self._dispatch,
            self._executor,
            self.turns,
            incarnation=storage.incarnation,
            namespace=self.namespace,
            now_ms=self._now_ms,
            now_s=self._clock.monotonic,
            starts=self.starts,
        )
        self._client = Client(
            LocalTransport(
                self.running,
                storage.archive,
                self._builtin,
                storage.level,
                self._listeners,
                self._lines,
                self._head_start.submit_all,
            ),
            namespace=self.namespace,
            now_s=lambda: self._now_ms() / 1_000,
        )
        self.client = FunctionClient(self._client, engine=self, head_start=self._head_start)
        """Starts workflows of `headrace.sdk`, as the client of a cluster does."""
        self._owning = asyncio.create_task(owner.run(), name="local-owner")
        self._owning.add_done_callback(self._ended)
        leading = asyncio.create_task(owner.leading.wait(), name="local-start")
        try:
            await asyncio.wait((leading, self._owning), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leading.cancel()
        self.running()
        await self._client.learn()

    def _make_executor(self, storage: Storage) -> Executor:
        payloads = Payloads()
        self.turns = Turns(
            self._dispatch,
            payloads,
            worker=WORKER,
            incarnation=storage.incarnation,
            clock=self._clock,
            short_retry_ms=self._short_retry_ms,
            parked=ParkedFunctions(count_max=self._cached_functions),
        )
        self._dispatch.on_wake = self.turns.wake
        return Executor(
            registry=self.registry,
            results=self._dispatch,
            assignments=DirectAssignments(
                slots=self._slots, queue_max=2 * WINDOW_MAX + self._slots
            ),
            workspaces=Workspaces(storage.data_dir, storage.incarnation, WorkspaceLimits()),
            payloads=payloads,
            turns=self.turns,
            claims=self._dispatch,
            logs=self._lines,
            secrets=self._secrets or secrets_at(),
            variables=self._variables or variables_at(),
            artifacts=FileArtifacts(self._artifacts or storage.data_dir / "artifacts"),
            clock=self._clock,
            at_once=True,
        )

    def running(self) -> Owner:
        """Return the owner. Raises what ended the engine, or `Unavailable` if it is not open."""
        if self._error is not None:
            raise self._error
        if self._owner is None:
            raise Unavailable("the engine is not open: use `async with`")
        return self._owner

    def _ended(self, owning: asyncio.Task[None]) -> None:
        """The owner has ended: nobody will answer those who wait."""
        error = None if owning.cancelled() else owning.exception()
        if isinstance(error, HeadraceError):
            self._error = error
        elif error is not None:
            log.error("engine failed", exc_info=error)
            self._error = HeadraceError(f"the engine failed: {error!r}")
        else:
            self._error = Unavailable("the engine is closed")
        self._owner = None
        self.starts.ends.fail(self._error)
        for listener in tuple(self._listeners):
            listener(b"")

    async def close(self, *, kill_s: float = KILL_S) -> None:
        """Stop everything; twice is fine. Steps get at most *kill_s* to die."""
        owning, self._owning = self._owning, None
        if owning is not None:
            self.client.unuse()
            await self._last_snapshot()
            # First the owner: what is killed now must not be recorded as failed.
            self._dispatch.disconnect()
            owning.cancel()
            await asyncio.gather(owning, return_exceptions=True)
            left = await self._executor.close(kill_s=kill_s)
            if left:
                log.warning("steps did not end in time", extra={"steps": left})
        storage, self._storage = self._storage, None
        if storage is not None:
            await storage.close()

    async def _last_snapshot(self) -> None:
        """Keep what level snapshot would lose; save the next life the reading of a long log."""
        owner, storage = self._owner, self._storage
        if owner is None or storage is None or storage.level == "memory":
            return
        # Also of one that is being made: ours comes behind it.
        storage.snapshots.pause_s = 0.0
        try:
            async with asyncio.timeout(SNAPSHOT_S):
                if storage.level == "snapshot" or (
                    (await storage.log.status()).entries > LOG_ENTRIES
                ):
                    await owner.snapshot()
        except (TimeoutError, HeadraceError) as error:
            log.error("no snapshot at the end", extra={"error": str(error)})

    async def kill_children(self) -> None:
        """SIGKILL, without a grace, to the processes of all steps. Needs `own_process`."""
        if self._storage is not None:
            await asyncio.to_thread(self._storage.kill_children)

    # -- workflow functions --------------------------------------------------------------------

    def serve(self, app: App) -> None:
        """Run the workflows and steps of *app* here. Raises `InvalidConfig` for taken names."""
        if not self.registry.serves(app):
            self.registry.serve(app)
            self._dispatch.offer(self.registry.describe())

    async def start(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]:
        """Start a workflow function; see `headrace.sdk.Client.start`."""
        self.running()
        return await self.client.start(workflow, *args, **kwargs)

    async def start_and_wait(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Start a workflow function, and return its result. Raises also `RunFailed`."""
        self.running()
        return await self.client.start_and_wait(workflow, *args, **kwargs)

    # -- running -------------------------------------------------------------------------------

    def compile(self, workflow: Plan | Path | str) -> Plan:
        """Return the plan of a workflow file (or the plan that it is).

        Raises `InvalidDefinition`, also for handlers that this engine does not have.
        """
        if isinstance(workflow, Plan):
            return workflow
        handlers = self.registry.describe()
        return load_definition(str(workflow), handlers=handlers, find=_not_registered)

    async def run(
        self,
        workflow: Plan | Path | str,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str = "",
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        steps: bool = True,
    ) -> RunView:
        """Run a workflow to its end and return it, however it ended; see `submit`.

        With ``steps=False`` the view is without its steps, which is faster.
        """
        if run_id:
            name = await self.submit(
                workflow, inputs, run_id=run_id, labels=labels, priority=priority
            )
            return await self.wait(name, steps=steps)
        owner, plan = self.running(), self.compile(workflow)
        starts, new_run = self.starts, self.starts.submits.new_run
        submit = starts.submits.submit(plan, new_run(), inputs, labels, priority)
        stretch = self._head_start.begin_task(owner, plan, submit) if owner.at_once else None
        if stretch is None:
            run = await starts.end(owner, submit.run, starts.post(owner, plan, submit))
        else:
            run = await stretch.end()
        return await self._view(run, steps=True) if steps else run_view(run, steps=False)

    async def submit(
        self,
        workflow: Plan | Path | str,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str = "",
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
    ) -> str:
        """Start a run and return its id; at level journal it is on disk then.

        A taken *run_id* is fine if definition and input are the same, else `Conflict`. Raises
        `InvalidDefinition` (the workflow, or the input), `InvalidRequest`, `LimitExceeded`.
        """
        self.running()
        view = await self._client.submit(
            self.compile(workflow),
            inputs,
            run_id=run_id,
            labels=labels,
            priority=priority,
        )
        return view.id

    async def wait(
        self, run: str, *, timeout_s: float | None = None, steps: bool = True
    ) -> RunView:
        """Return a run once it has ended, or as it is after *timeout_s*. Raises `NotFound`."""
        key = subjects.run_key(self.namespace, run)
        # Registered first: the run may end before the answer is here.
        ended = self.starts.ends.expect(key)
        try:
            view = await self._client.get(run, steps=steps)
            if view.state in ENDED:
                return view
            async with asyncio.timeout(timeout_s):
                return await self._view(await ended, steps=steps)
        except TimeoutError:
            return await self._client.get(run, steps=steps)
        finally:
            self.starts.ends.forget(key, ended)

    async def _view(self, run: Run, *, steps: bool) -> RunView:
        segments: Sequence[bytes] = ()
        if steps and run.history_first > 1:
            # A long run: its older events have left the state.
            assert self._storage is not None
            found = await self._storage.archive.history(*subjects.split_key(run.key))
            segments = [chunk for segment in found for chunk in unpack(segment.data)]
        return run_view(run, steps=steps, shard=SHARD, segments=segments)

    def _observe(self, effects: TickEffects) -> None:
        """After each tick: tell those who wait."""
        for run in effects.ended:
            self.starts.ends.tell(run)
        if self._listeners:
            for listener in tuple(self._listeners):
                listener(b"")

    # -- looking and changing: as a client of a cluster does it ------------------------------------

    async def get(self, run: str, *, steps: bool = True) -> RunView:
        """Return a run as it is. Raises `NotFound`."""
        return await self._client.get(run, steps=steps)

    async def watch(self, run: str) -> AsyncIterator[RunView]:
        """Yield a run now and after each change, at the end as it ended. Raises `NotFound`.

        A large run is looked at less often: its views take time.
        """
        key = subjects.run_key(self.namespace, run)
        loop = asyncio.get_running_loop()
        ended = self.starts.ends.expect(key)
        changed = asyncio.Event()

        def note(_: bytes) -> None:
            changed.set()

        self._listeners.add(note)
        try:
            while True:
                changed.clear()
                began_s = loop.time()
                view = await self.get(run)
                yield view
                if view.state in ENDED:
                    return
                took_s = loop.time() - began_s
                await asyncio.wait((ended,), timeout=max(WATCH_S, WATCH_SHARE * took_s))
                if ended.done():
                    yield await self._view(ended.result(), steps=True)
                    return
                await changed.wait()
        finally:
            self._listeners.discard(note)
            self.starts.ends.forget(key, ended)

    async def patch(
        self, run: str, workflow: Plan | Path | str, *, dry_run: bool = False
    ) -> PatchView:
        """Let a live run go on with another workflow; see `Client.patch`."""
        return await self._client.patch(run, self.compile(workflow), dry_run=dry_run)

    async def rerun(self, run: str, *, failed: bool = False) -> str:
        """Start an ended run again (*failed*: keeping what was recorded); return the new id."""
        return (await self._client.rerun(run, failed=failed)).id


def _registry(handlers: Iterable[object]) -> Registry:
    registry = builtin_registry()
    for thing in handlers:
        registry.add(thing)
    return registry


def _ids(incarnation: str) -> Callable[[], str]:
    """Return a function that makes ids which differ from those of all other lives."""
    numbers = itertools.count(1)
    return lambda: f"{incarnation}{next(numbers):x}"


def _not_registered(_: str) -> NoReturn:
    raise InvalidRequest("nothing is registered without a cluster; write the path of a file")
