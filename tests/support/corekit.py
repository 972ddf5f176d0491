"""A shard's machine with everything around it in plain data: time, chance, log, follower, workers.

Every tick is the owner's (begin → commands → timers → settle → schedule → finish), and after every
tick a follower that folds the same entries must have the same state, every change of a state must
be legal, and nothing may be ready that nobody looks after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from headrace.coordinator.core import (
    Facts,
    Folder,
    Limits,
    Machine,
    Order,
    Outgoing,
    Program,
    Refusal,
    Run,
    ShardState,
    TickEffects,
    explain,
    state_hash,
    status,
)
from headrace.coordinator.core.histories import history_entries
from headrace.coordinator.core.parking import park_all
from headrace.coordinator.core.views import counted_as, run_view
from headrace.events import StepScheduled, decode_batch, decode_chunk
from headrace.messages import (
    CancelRun,
    Claim,
    ClaimReply,
    Explanation,
    HistoryEntry,
    PatchRun,
    PauseRun,
    ResolveStep,
    ResultBatch,
    ResultExtra,
    ResultStatus,
    ResumeRun,
    RunView,
    SignalRun,
    StepError,
    StepResult,
    StorePlan,
    SubmitRun,
    Task,
)
from headrace.plan import Plan, encode_plan
from support.corechecks import BUILTIN, anything, as_counted, legal_only, restored

T = TypeVar("T")
START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
NAMESPACE = "default"
UNLIMITED = 1_000_000
LEFT_TO_DECIDE = "about to decide"


class Kit:
    """One shard: its leader, its log, a follower, and the tasks that workers have."""

    def __init__(
        self,
        shard: int = 1,
        *,
        chance: Callable[[], float] = lambda: 0.5,
        home: Callable[[str], int] | None = None,
        limits: Limits | None = None,
        credit: int = UNLIMITED,
        now_ms: int = START_MS,
        watch: bool = True,
    ) -> None:
        self.shard, self.limits, self.credit, self.now_ms = shard, limits, credit, now_ms
        self.chance, self.home = chance, home or (lambda _key: shard)
        self.watch = watch
        self.log: list[tuple[int, bytes]] = []
        self.folder = Folder(ShardState(shard, BUILTIN))
        self.machine = self._lead(ShardState(shard, BUILTIN))
        self.workers: dict[str, frozenset[str]] = {}
        """Live workers by id, with what they offer: whom broadcasts are given."""
        self.closed: Callable[[str], bool] = lambda _lane: False
        """Lanes that get no credit."""
        self.tasks: dict[tuple[str, int], Task] = {}
        """What workers have in hand: (run key, step) -> task."""
        self.orders: list[Order] = []
        self.outgoing: list[Outgoing] = []
        self.ended: list[Run] = []
        self.fresh: list[tuple[str, Any]] = []
        """(run key, event) of the last tick, shard events under ""."""
        self.recorded: dict[tuple[str, int], int] = {}
        self._requests = 0

    # -- ticks ------------------------------------------------------------------------------

    def _lead(self, state: ShardState) -> Machine:
        return Machine(state, chance=self.chance, home=self.home, limits=self.limits)

    def tick(self, command: Callable[[Machine], T] = lambda _machine: None) -> T:  # type: ignore[assignment,return-value]
        """Run one tick of the owner with *command* in it; return what *command* returned."""
        machine = self.machine
        machine.begin(self.now_ms)
        found = command(machine)
        machine.fire_timers()
        machine.settle()
        self._gather()
        self._end_tick()
        return found

    def _gather(self) -> None:
        """Tell broadcasts who is there, as the owner does."""
        for (run, instance), (_, labels) in list(self.machine.gatherings.items()):
            needed = {label.lower() for label in labels}
            found = [(w, "1") for w, offers in self.workers.items() if needed <= offers]
            self.machine.gather(run, instance, found)
        self.machine.settle()

    def join(self, *workers: str, labels: tuple[str, ...] = ("web",)) -> None:
        """Workers appear; broadcasts that wait hear of them."""
        self.workers.update(dict.fromkeys(workers, frozenset(labels)))
        self.tick()

    def _end_tick(self) -> None:
        machine = self.machine
        tasks: dict[str, list[Task]] = {}
        for lane in sorted(machine.ready.filled):
            if self.closed(lane):
                continue
            tasks[lane] = machine.schedule(lane, self.credit, lane)
        self.fresh = []
        if machine.dirty:
            for entry in machine.finish(batch_id=f"b{len(self.log)}", epoch=1):
                self.append(entry)
                machine.state.batch_position = len(self.log)
            self._act(machine.effects(tasks))
        elif machine.orders or machine.outgoing or machine.ended or machine.wakes:
            # Derived again: after a takeover, and for outbox messages that are sent once more.
            self._act(machine.effects(tasks))
        self.check()

    def _act(self, effects: TickEffects) -> None:
        for tasks in effects.tasks.values():
            for task in tasks:
                self.tasks[task.run, task.step] = task
        self.orders += effects.orders
        self.outgoing += effects.outgoing
        self.ended += effects.ended

    def append(self, entry: bytes) -> None:
        """Put an entry into the log, fold it, and look at every event in it."""
        self.log.append((len(self.log) + 1, entry))
        batch = decode_batch(entry)
        for event in (*batch.before, *batch.after):
            self.fresh.append(("", event))
        for raw in batch.chunks:
            chunk = decode_chunk(raw)
            self.fresh += [(chunk.run, event) for event in chunk.events]
        with legal_only() if self.watch else anything():
            self.folder.fold(*self.log[-1])

    def check(self) -> None:
        """Check what must hold after every tick."""
        state = self.machine.state
        assert not state.agenda, "decisions were left over"
        assert state_hash(state) == state_hash(self.folder.state), "the follower differs"
        # Now and then the follower keeps as few records as it can: that changes nothing.
        if len(self.log) % 3 == 0:
            park_all(self.folder.state)
        for key, step in list(self.tasks):
            run = state.runs.get(key)
            if run is None or run.tokens.get(run.instance(step)) != self.tasks[key, step].token:
                del self.tasks[key, step]
        for run in state.runs.values():
            self._check_run(run)

    def _check_run(self, run: Run) -> None:
        for loop, counts in run.counts.items():
            begun = [run.status[base] for base in run.iterations.get(loop, ())]
            if counts.window:
                live = (status.DISPATCHED, status.WAITING, status.RUNNING)
                assert sum(value in live for value in begun) <= counts.window, "max-parallel"
        assert run.active == len(run.tokens)
        assert {s for s, value in enumerate(run.status) if value == status.DISPATCHED} == set(
            run.tokens
        )
        assert not run.quarantined, run.quarantined
        if status.is_final(run.state):
            assert not run.tokens
            return
        assert counted_as(run) == as_counted(run)
        due_ms = self.machine.timers.next_ms()
        if any(map(self.closed, self.machine.ready.filled)):
            return
        if run.paused or self.credit < UNLIMITED or 0 < due_ms <= self.now_ms:
            return
        for step in self.machine.ready_tasks(run):
            first = run.jobs[run.job_of(step)].first
            assert run.status[first] == status.DISPATCHED, f"{run.path(step)} is ready for ever"
        if run.state == status.RUNNING:
            reasons = explain(state=self.machine.state, run=run).reasons
            assert reasons
            assert LEFT_TO_DECIDE not in reasons[0].reason, "a run that nobody looks after"

    # -- clients ----------------------------------------------------------------------------

    def request_id(self) -> str:
        self._requests += 1
        return f"q{self.shard}-{self._requests}"

    def store(self, plan: Plan) -> str:
        """Store a plan; return its digest."""
        digest = self.tick(lambda m: m.request(NAMESPACE, StorePlan(plan=encode_plan(plan))))
        assert isinstance(digest, str), digest
        return digest

    def submit(self, plan: Plan | str, run: str = "r", **options: Any) -> Any:
        """Submit a run; return the reply."""
        digest = plan if isinstance(plan, str) else self.store(plan)
        options.setdefault("request_id", self.request_id())
        options.setdefault("not_after_ms", self.now_ms + 60_000)
        return self.tick(lambda m: m.request(NAMESPACE, SubmitRun(run=run, plan=digest, **options)))

    def start(self, plan: Plan | str, run: str = "r", **options: Any) -> Run:
        """Submit a run that is accepted; return it."""
        reply = self.submit(plan, run, **options)
        assert not isinstance(reply, Refusal), reply
        return self.run(run)

    def _mutate(self, kind: Any, run: str, options: dict[str, Any]) -> Any:
        options.setdefault("request_id", self.request_id())
        options.setdefault("not_after_ms", self.now_ms + 60_000)
        return self.tick(lambda m: m.request(NAMESPACE, kind(run=run, **options)))

    def signal(self, name: str, payload: Any = None, run: str = "r", **options: Any) -> Any:
        return self._mutate(SignalRun, run, {"name": name, "payload": payload, **options})

    def cancel(self, run: str = "r", **options: Any) -> Any:
        return self._mutate(CancelRun, run, options)

    def pause(self, run: str = "r", **options: Any) -> Any:
        return self._mutate(PauseRun, run, options)

    def resume(self, run: str = "r", **options: Any) -> Any:
        return self._mutate(ResumeRun, run, options)

    def patch(self, plan: Plan | str, run: str = "r", **options: Any) -> Any:
        digest = plan if isinstance(plan, str) else self.store(plan)
        return self._mutate(PatchRun, run, {"plan": digest, **options})

    def resolve(self, step: str, resolution: str, run: str = "r", **options: Any) -> Any:
        return self._mutate(ResolveStep, run, {"step": step, "resolution": resolution, **options})

    # -- workers ----------------------------------------------------------------------------

    def task(self, path: str, run: str = "r") -> Task:
        """Return the task that a worker has in hand for a path."""
        for task in self.tasks.values():
            if task.path == path and task.run == f"{NAMESPACE}/{run}":
                return task
        raise AssertionError(f"{path} is not dispatched; {self.statuses(run)}")

    def dispatched(self, run: str = "r") -> list[str]:
        """Return the paths that workers have in hand, in order of dispatch."""
        own = [task for task in self.tasks.values() if task.run == f"{NAMESPACE}/{run}"]
        return [task.path for task in sorted(own, key=lambda task: task.token)]

    def result(self, task: Task, outcome: int, **options: Any) -> StepResult:
        output = msgspec.Raw(msgspec.msgpack.encode(options.pop("output", {})))
        return StepResult(
            task.run,
            task.step,
            task.attempt,
            task.token,
            outcome,
            output,
            self.now_ms,
            self.now_ms,
            **options,
        )

    def report(self, *results: StepResult, worker: str = "w") -> list[int]:
        """Send results of one worker; return the refused indexes."""
        batch = ResultBatch(1, worker, "1", list(results))
        return self.tick(lambda m: m.results(batch))

    def complete(
        self,
        path: str,
        output: dict[str, Any] | None = None,
        *,
        run: str = "r",
        worker: str = "w",
        extra: ResultExtra | None = None,
    ) -> None:
        result = self.result(
            self.task(path, run), ResultStatus.COMPLETED, output=output or {}, extra=extra
        )
        assert self.report(result, worker=worker) == []

    def fail(
        self,
        path: str,
        kind: str = "exit-code",
        *,
        retryable: bool = True,
        run: str = "r",
        worker: str = "w",
    ) -> None:
        error = StepError(kind, f"{path} failed", retryable)
        result = self.result(self.task(path, run), ResultStatus.FAILED, error=error)
        assert self.report(result, worker=worker) == []

    def cancelled(self, path: str, *, run: str = "r", worker: str = "w") -> None:
        result = self.result(self.task(path, run), ResultStatus.CANCELLED)
        assert self.report(result, worker=worker) == []

    def hand_back(self, path: str, *, run: str = "r", worker: str = "w") -> None:
        result = self.result(self.task(path, run), ResultStatus.RETURNED)
        assert self.report(result, worker=worker) == []

    def lose(self, path: str, *, run: str = "r", worker: str = "w.1") -> None:
        task = self.task(path, run)
        self.tick(lambda m: m.lose(task.run, task.step, task.attempt, worker=worker, reason="gone"))

    def lose_worker(self, worker: str = "w") -> None:
        self.tick(lambda m: m.lose_worker(worker, f"worker {worker} did not come back"))

    def claim(self, path: str, *, run: str = "r", worker: str = "w", life: str = "1") -> ClaimReply:
        task = self.task(path, run)
        claim = Claim(1, worker, life, task.run, task.step, task.attempt, task.token)
        return self.tick(lambda m: m.claim(claim, start_by_ms=self.now_ms + 1_000))

    # -- time and crashes -------------------------------------------------------------------

    def advance(self, ms: int) -> None:
        """Let time pass; timers fire in one tick at the end."""
        self.now_ms += ms
        self.tick()

    def next_timer(self) -> int:
        """Go to the next timer; return how long that took (0: there is none)."""
        due_ms = self.machine.timers.next_ms()
        if not due_ms:
            return 0
        waited = max(due_ms - self.now_ms, 0)
        self.now_ms = max(self.now_ms, due_ms)
        self.tick()
        return waited

    def kill(self, *, snapshot: bool = False) -> None:
        """The leader dies; another one folds the log (or a snapshot of it) and goes on.

        As the owner does it: what follows from taking over is part of the next tick.
        """
        state = self.folded()
        if snapshot:
            state = restored(state)
        elif len(self.log) % 2:
            park_all(state)
        self.outgoing = []
        self.machine = self._lead(state)
        self.machine.begin(self.now_ms)
        self.machine.resume()
        self.machine.settle()
        self.ended = list(self.machine.ended)
        self.machine.ended = []
        self.now_ms += 1
        self.tick()

    def park(self) -> int:
        """The leader parks all runs that only wait; return how many."""
        return park_all(self.machine.state)

    def folded(self) -> ShardState:
        """Return a state made of the whole log."""
        folder = Folder(ShardState(self.shard, BUILTIN))
        for position, data in self.log:
            folder.fold(position, data)
        assert state_hash(folder.state) == state_hash(self.folder.state)
        return folder.state

    def archive(self) -> None:
        """The archive has every run that has ended."""
        for run in list(self.machine.state.runs.values()):
            if status.is_final(run.state):
                self.tick(lambda m, run=run: m.evict(run))

    def is_here(self, run: str = "r") -> bool:
        """Tell whether a run is in the state."""
        return f"{NAMESPACE}/{run}" in self.machine.state.runs

    # -- looking ----------------------------------------------------------------------------

    def run(self, run: str = "r") -> Run:
        return self.machine.state.runs[f"{NAMESPACE}/{run}"]

    def state(self, run: str = "r") -> str:
        return status.NAMES[self.run(run).state]

    def statuses(self, run: str = "r") -> dict[str, str]:
        """Return the state of each instance by path, without templates."""
        found = self.run(run)
        return {
            found.path(i): status.NAMES[value]
            for i, value in enumerate(found.status)
            if i and value != status.TEMPLATE
        }

    def status(self, path: str, run: str = "r") -> str:
        return self.statuses(run)[path]

    def output(self, path: str, run: str = "r") -> Any:
        found = self.run(run)
        return msgspec.msgpack.decode(found.outputs[self.instance(path, run)])

    def run_output(self, run: str = "r") -> Any:
        return msgspec.msgpack.decode(self.run(run).output)

    def instance(self, path: str, run: str = "r") -> int:
        found = self.run(run)
        (instance,) = [
            i
            for i, value in enumerate(found.status)
            if value != status.TEMPLATE and found.path(i) == path
        ]
        return instance

    def names(self) -> list[str]:
        """Return the last tick's events: ``StepCompleted a`` of a run, ``KeyWaited`` of a shard."""
        found = []
        for key, event in self.fresh:
            at = getattr(event, "step", getattr(event, "node", None))
            path = ""
            if key and at is not None and at >= 0:
                path = self.machine.state.runs[key].path(at)
            found.append(f"{type(event).__name__} {path}".strip())
        return found

    def all_events(self, run: str = "r", kind: type | None = None) -> list[Any]:
        """Return all events of a run from the log."""
        found = []
        for _, entry in self.log:
            for raw in decode_batch(entry).chunks:
                chunk = decode_chunk(raw)
                if chunk.run == f"{NAMESPACE}/{run}":
                    found += [e for e in chunk.events if kind is None or isinstance(e, kind)]
        return found

    def scheduled(self, run: str = "r") -> list[StepScheduled]:
        """Return every dispatch of a run, in order."""
        return self.all_events(run, StepScheduled)

    def view(self, run: str = "r") -> RunView:
        return run_view(self.run(run), steps=True, shard=self.shard)

    def history(self, run: str = "r") -> list[HistoryEntry]:
        found = self.run(run)
        return history_entries(found, found.history, after=0, limit=1_000_000)

    def explain(self, run: str = "r", facts: Facts | None = None) -> Explanation:
        return explain(self.machine.state, self.run(run), facts)

    def inputs(self, path: str, run: str = "r") -> Any:
        """Return the inputs that a dispatched task was given."""
        return msgspec.msgpack.decode(self.task(path, run).inputs)


def finish(kit: Kit, run: str = "r", *, rounds: int = 300) -> str:
    """Complete whatever comes until the run has ended; return its state."""
    for _ in range(rounds):
        if f"{NAMESPACE}/{run}" not in kit.machine.state.runs:
            raise AssertionError("the run is gone")
        if status.is_final(kit.run(run).state):
            return kit.state(run)
        paths = kit.dispatched(run)
        if paths:
            task = kit.task(paths[0], run)
            doomed = kit.run(run).instance(task.step) in kit.run(run).doomed
            outcome = ResultStatus.CANCELLED if doomed else ResultStatus.COMPLETED
            assert kit.report(kit.result(task, outcome)) == []
        elif not kit.next_timer():
            break
    raise AssertionError(f"the run does not end: {kit.statuses(run)}")


def program(plan: Plan) -> Program:
    """Compile a plan."""
    return Program(plan, "0" * 32, NAMESPACE, BUILTIN)


def paths(events: Iterable[Any], run: Run) -> list[str]:
    """Return the paths that events are about."""
    return [run.path(getattr(e, "step", getattr(e, "node", 0))) for e in events]
