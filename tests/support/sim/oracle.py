"""What must hold: at every entry of the logs, at every answer, and at the end of a world.

Everything is judged from outside: stored entries, messages on the wire, steps that ran. Whether
replicas agree is asked in `agreement`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.coordinator.runtime.archiver import unpack
from headrace.messages import (
    Claim,
    ClaimReply,
    ClientBatch,
    ReplyBatch,
    ResultBatch,
    ResultReply,
    Task,
    TurnReply,
    TurnReport,
    UpdateRun,
)
from headrace.plan import decode_plan
from support.sim.answers import (
    check_answer,
    check_changed,
    check_claim,
    check_results,
    check_turn,
    check_unknown,
    check_update,
)
from support.sim.comebacks import Comebacks
from support.sim.extras import FIXED_RATES, VARIABLE
from support.sim.features import NAMES, of_plan, of_struct
from support.sim.homes import Homes, limit_of, place_of
from support.sim.instances import HELD
from support.sim.journal import AFTER, BEFORE, CHUNKS, TIME_MS, Journal
from support.sim.plans import asks_for_more
from support.sim.registry import Registry
from support.sim.runs import RunModel
from support.sim.schedules import Schedules

if TYPE_CHECKING:
    from support.sim.world import World

_decode = msgspec.msgpack.Decoder().decode
_batch = msgspec.msgpack.Decoder(ClientBatch)
_reply_batch = msgspec.msgpack.Decoder(ReplyBatch)
_worker_request = msgspec.msgpack.Decoder(ResultBatch | Claim | TurnReport)
_result_reply = msgspec.msgpack.Decoder(ResultReply)
_claim_reply = msgspec.msgpack.Decoder(ClaimReply)
_turn_reply = msgspec.msgpack.Decoder(TurnReply)
_FINAL = ("COMPLETED", "FAILED", "CANCELLED")
_OF_RUNS = ("SubmitRun", "SignalRun", "CancelRun", "PauseRun", "ResumeRun")
_MUTATIONS = ("SignalRun", "CancelRun", "PauseRun", "ResumeRun", "ResolveStep", "UpdateRun")
SCHEDULE_LABEL = "headrace/schedule"


def _named(event: list[Any]) -> str:
    """Return an event for the story."""
    return f"{NAMES.get(event[0], '?')} {event[1:]}"


class ShardOracle:
    """One shard's log, followed entry by entry."""

    def __init__(self, world: World, shard: int) -> None:
        self.world, self.shard = world, shard
        self.journal = Journal(shard, self._apply, self.fault)
        self.entries: list[tuple[int, bytes]] = []
        self.runs: dict[str, RunModel] = {}
        self.plans: dict[str, Any] = {}
        self.homes = Homes(self)
        self.registry = Registry(self)
        self.seen: set[str] = set()
        self.given_up: set[tuple[str, int, int]] = set()
        """Attempts called lost in a world where no worker is in trouble."""
        self.snapshots: dict[int, tuple[str, str]] = {}
        """Position -> (name, state hash) of the registered ones."""
        self.schedules = Schedules(self)
        self.comebacks = Comebacks(world, shard)
        self._token_before = 0
        self._tokens: set[int] = set()
        """Fencing tokens of the tick."""

    def fault(self, text: str) -> None:
        """A rule is broken."""
        self.world.violation(f"shard {self.shard}: {text}")

    def appended(self, position: int, subject: str, data: bytes) -> None:
        """An entry was stored, or a record of ownership."""
        if subject.endswith(".epoch"):
            self.comebacks.taken(data)
            return
        self.entries.append((position, data))
        self.journal.entry(position, data)

    def _apply(self, position: int, parts: list[list[Any]]) -> None:
        self._token_before = max(self._tokens, default=self._token_before)
        self._tokens.clear()
        for batch in parts:
            for event in batch[BEFORE]:
                self._shard_event(event, batch[TIME_MS])
            for chunk in batch[CHUNKS]:
                self._chunk(chunk, batch[TIME_MS])
            for event in batch[AFTER]:
                self._shard_event(event, batch[TIME_MS])
        self.world.oracle.entry_ends()
        self.registry.tick_ends()

    def _chunk(self, chunk: list[Any], time_ms: int) -> None:
        key, first, at_ms, events = chunk
        run = self.runs.get(key)
        if (run is None) != (events[0][0] == 1):
            self.fault(f"events of {key}, created twice or never: {events[0]}")
        if run is None:
            plan = self.plans[events[0][2]]
            self.world.used.update(of_plan(plan))
            run = self.runs[key] = RunModel(self, key, plan, asks_for_more(plan))
        if first != run.events + 1 or at_ms != time_ms:
            self.fault(f"run {key}: chunk begins at {first}, {run.events} events are known")
        schedule = events[0][7].get(SCHEDULE_LABEL) if events[0][0] == 1 and events[0][7] else ""
        if schedule:
            key_of = f"default/{schedule}"
            self.world.oracle.later(lambda: self.world.oracle.scheduled(key_of, run))
        # Encoded again by us: what the archive must hold, byte for byte.
        run.chunks.append(msgspec.msgpack.encode(chunk))
        told = self.world.story is not None
        for event in events:
            if told:
                said = f"shard {self.shard} {key} #{run.events + 1}: {_named(event)}"
                self.world.tell(f"      {said}")
            self.world.used[NAMES[event[0]]] += 1
            run.apply(event, time_ms)

    def _shard_event(self, event: list[Any], time_ms: int) -> None:
        kind = event[0]
        self.world.used[NAMES[kind]] += 1
        if kind != 101 and self.world.story is not None:
            self.world.tell(f"      shard {self.shard}: {_named(event)}")
        if kind == 101:
            self.plans[event[1]] = decode_plan(event[2])
        elif kind == 102:
            self._evicted(event[1])
        elif kind == 103:
            self.snapshots[event[1]] = (event[2], event[3])
        elif kind == 104:
            self.seen.add(event[1])
        elif 110 <= kind <= 115 or 150 <= kind <= 154:
            self.homes.apply(event, time_ms)
        elif 132 <= kind <= 136:
            self.schedules.apply(event, time_ms)
        else:
            self.registry.apply(event, time_ms)

    def _evicted(self, key: str) -> None:
        run = self.runs[key]
        if run.state not in _FINAL:
            self.fault(f"{key} is evicted while {run.state}")
        run.evicted = True
        run.may_leave()
        if not self.world.archive.has(key):
            self.fault(f"{key} is evicted, and the archive does not have it")

    # -- for the models of runs ----------------------------------------------------------------

    def token(self, token: int) -> None:
        """Fencing tokens rise from tick to tick, and none is used twice."""
        if token <= self._token_before or token in self._tokens:
            self.fault(f"token {token} after {self._token_before} and {self._tokens}")
        self._tokens.add(token)

    def hold_real(self, key: str, holder: tuple[str, int]) -> None:
        """A holder goes on because it has the key: over all shards, within the limit."""
        self.world.oracle.hold(key, holder)

    def release_real(self, key: str, holder: tuple[str, int]) -> None:
        """A holder has ended."""
        self.world.oracle.holding.get(key, set()).discard(holder)

    def home_of(self, key: str) -> Homes:
        """Return what the home of a key knows."""
        oracle = self.world.oracle
        return oracle.shards[self.world.layout.home(key)].homes

    def freed(self, key: str, holder: str) -> None:
        """A holder's key is free at home: it must have ended."""
        place, oracle = place_of(holder), self.world.oracle

        def check() -> None:
            # A group that begins anew gives its key back and has it again within one tick.
            held = self.homes.holders[key]
            if place in oracle.holding.get(key, ()) and place not in map(place_of, held):
                self.fault(f"{key} is taken from {holder}, who goes on")

        oracle.later(check)

    def robbed(self, key: str, holder: tuple[str, int]) -> None:
        """A lock is taken from its holder, who may go on until it hears of that: tokens are for
        that."""
        self.release_real(key, holder)

    @staticmethod
    def decoded(data: bytes) -> Any:
        """Return a value that the log holds as bytes."""
        return _decode(data)

    def lost(self, run: str, step: int, attempt: int) -> None:
        """An attempt is given up: if no worker was ever in trouble, none may have begun it."""
        world = self.world
        if not world.chaos.workers_safe:
            return
        self.given_up.add((run, step, attempt))
        begun = [e for e in world.record.by_step.get((run, step), ()) if e.attempt == attempt]
        if begun:
            self.fault(f"{run} step {step} attempt {attempt} is given up; it runs: {begun}")

    def begins(self, run: str, step: int, attempt: int) -> None:
        """A step's code begins: not that of an attempt that a worker in no trouble has lost."""
        if (run, step, attempt) in self.given_up:
            self.fault(f"{run} step {step} attempt {attempt} was given up, and it begins")

    def check_output(self, run: str, step: int, attempt: int, worker: str, output: Any) -> None:
        """A recorded result is what that attempt computed, on that worker."""
        executions = self.world.record.executions
        number = output.get("x") if isinstance(output, dict) else None
        found = executions[number] if number is not None and number < len(executions) else None
        if found is None or (found.run, found.step, found.attempt, found.worker) != (
            run,
            step,
            attempt,
            worker,
        ):
            self.fault(f"result {output} of {run} step {step} attempt {attempt}: computed {found}")


class Oracle:
    """All shards of a world, and what is said outside of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.shards = {shard: ShardOracle(world, shard) for shard in world.layout.shards}
        self.holding: dict[str, set[tuple[str, int]]] = {}
        self.said: dict[tuple[str, int], Any] = {}
        """(what, number) -> the setting that the system shard has made."""
        self.begun: dict[str, list[int]] = {}
        """Rate limit -> when something began."""
        self.of_schedule: dict[str, list[RunModel]] = {}
        self._checks: list[Callable[[], None]] = []
        world.broker.on_append = self._appended

    def _appended(self, stream: str, seq: int, subject: str, data: bytes) -> None:
        if stream.startswith("HEADRACE_LOG_"):
            self.shards[int(stream.rpartition("_")[2])].appended(seq, subject, data)

    def hold(self, key: str, holder: tuple[str, int]) -> None:
        """See `ShardOracle.hold_real`."""
        self.holding.setdefault(key, set()).add(holder)

    def begins_within(self, key: str, time_ms: int) -> None:
        """Something begins within a rate limit: in no period are there more.

        By the times of logs, which agree only where no clock is wrong.
        """
        begun = self.begun.setdefault(key, [])
        begun.append(time_ms)
        fixed = FIXED_RATES.get(key.partition("/")[2])
        if fixed is None or self.world.clocks_wrong:
            return
        limit, per_ms = fixed
        late = [at_ms for at_ms in begun if time_ms - per_ms < at_ms <= time_ms]
        if len(late) > limit:
            self.world.violation(f"{key}: {late} begin within {per_ms} ms, {limit} may")

    def later(self, check: Callable[[], None]) -> None:
        """Check something once the whole tick is known: events of runs come run by run."""
        self._checks.append(check)

    def entry_ends(self) -> None:
        """All of a tick is known."""
        checks, self._checks = self._checks, []
        for check in checks:
            check()
        self.check_holders()

    def check_holders(self) -> None:
        """Between two ticks nobody holds more of a key than there is."""
        for key, held in self.holding.items():
            if len(held) > limit_of(key):
                self.world.violation(f"key {key} is held by {sorted(held)} at the same time")

    def begins(self, task: Task) -> None:
        """A step's code begins."""
        self.shards[self.world.layout.home(task.run)].begins(task.run, task.step, task.attempt)

    def reads(self, task: Task, inputs: dict[str, Any]) -> None:
        """A step's code sees its inputs: variables as its run has pinned them."""
        run = self.run(task.run)
        if VARIABLE in inputs and run is not None:
            pinned = (run.variables or {}).get(VARIABLE) or ""
            if (inputs[VARIABLE] or "") != pinned:
                self.world.violation(f"{task.run} {task.path} reads {inputs}, pinned: {pinned!r}")

    def licences(self, task: Task) -> int:
        """Return how often an at-most-once step may begin."""
        run = self.run(task.run)
        return run.instances[task.step].licences if run is not None else 1

    def run(self, key: str) -> RunModel | None:
        """Return what the log says of a run."""
        return self.shards[self.world.layout.home(key)].runs.get(key)

    def every_run(self) -> dict[str, RunModel]:
        """Return all runs that there ever were."""
        return {key: run for shard in self.shards.values() for key, run in shard.runs.items()}

    def scheduled(self, key: str, run: RunModel) -> None:
        """A run of schedule *key* is created."""
        others = self.of_schedule.setdefault(key, [])
        home = self.world.layout.home(f"schedule:{key}")
        self.shards[home].schedules.begins(key, run, others)
        others.append(run)

    def undecided(self) -> list[tuple[str, str]]:
        """Return (run, path) of the steps that wait for a person."""
        return [
            (key.partition("/")[2], step.path)
            for key, run in self.every_run().items()
            if run.state == "RUNNING"
            for step in run.instances
            if step.state == HELD and step.handler < 0
        ]

    # -- what is thrown away -------------------------------------------------------------------

    def purged(self, stream: str, subject: str, upto: int) -> None:
        """A log loses its head: two snapshots, with all behind the older one, must remain."""
        if not stream.startswith("HEADRACE_LOG_"):
            return
        shard = self.shards[int(stream.rpartition("_")[2])]
        if not upto:
            if not subject.endswith(".epoch"):
                shard.fault(f"everything on {subject} is purged")
            return
        registered = sorted(shard.snapshots)
        if len(registered) < 2 or upto > registered[-2]:
            shard.fault(f"purged up to {upto}, snapshots are registered at {registered[-3:]}")

    def deleted(self, shard: int, name: str) -> None:
        """A snapshot is dropped: it must not be one of the two that count."""
        oracle = self.shards[shard]
        counting = [oracle.snapshots[at][0] for at in sorted(oracle.snapshots)[-2:]]
        if name in counting:
            oracle.fault(f"snapshot {name} is deleted, and it is one of {counting}")

    # -- answers, at the moment when they leave ------------------------------------------------

    def answered(self, subject: str, request: bytes, reply: bytes) -> None:
        """A coordinator answers a request: is what it says in the log by now?"""
        kind, _, rest = subject.partition(".")[2].partition(".")
        if kind == "cmd":
            shard = self.shards[int(rest.rpartition(".")[2])]
            requests = _batch.decode(request).requests
            for one, said in zip(requests, _reply_batch.decode(reply).replies, strict=True):
                self._client_answered(shard, one, said)
        elif kind == "result":
            shard = self.shards[int(rest.split(".")[1])]
            asked = _worker_request.decode(request)
            if isinstance(asked, ResultBatch):
                check_results(shard, asked, _result_reply.decode(reply))
            elif isinstance(asked, TurnReport):
                check_turn(shard, asked, _turn_reply.decode(reply))
            else:
                check_claim(shard, asked, _claim_reply.decode(reply))

    def _client_answered(self, shard: ShardOracle, request: Any, reply: Any) -> None:
        kind = type(request).__name__
        name = getattr(request, "run", "")
        run = shard.runs.get(f"default/{name}")
        if not reply.code:
            self.world.used.update(of_struct(request))
            if kind == "StorePlan":
                if _decode(reply.result) not in shard.plans:
                    shard.fault("a plan is acknowledged and not in the log")
            elif kind == "SubmitRun" or (kind == "GetRun" and not request.at_ms):
                self._view_answered(shard, run, _decode(reply.result))
            elif kind in _MUTATIONS:
                self._mutation_answered(shard, run, request)
                self._seen_after(shard, run, request, _decode(reply.result))
            elif kind == "GetHistory" and run is not None:
                for entry in _decode(reply.result):
                    if entry["number"] > run.events:
                        shard.fault(f"history of {name} shows event {entry['number']} too early")
            elif kind == "ListRuns":
                for view in _decode(reply.result)["runs"]:
                    self._view_answered(shard, shard.runs.get(f"default/{view['id']}"), view)
            else:
                check_answer(shard, request, reply.result)
        elif reply.code == "conflict" and kind in _OF_RUNS and not (run and run.state in _FINAL):
            shard.fault(
                f"{kind} of {name} is refused: {reply.message}; the log knows no such thing"
            )
        elif reply.code == "not-found":
            check_unknown(shard, run, request, reply.message)

    def _seen_after(
        self, shard: ShardOracle, run: RunModel | None, request: Any, view: Any
    ) -> None:
        """Check what a client is shown once its change is done."""
        if isinstance(request, UpdateRun):
            check_update(shard, run, request, view)
        elif view is not None:
            self._view_answered(shard, run, view)
        elif run is not None and not run.evicted:
            what = f"{type(request).__name__} of {request.run}"
            shard.fault(f"{what} is answered without a view, and the run is there")

    def _view_answered(self, shard: ShardOracle, run: RunModel | None, view: Any) -> None:
        if run is None:
            shard.fault(f"{view['id']} is shown, and is not in the log")
        elif view.get("events", 0) > run.events:
            shard.fault(
                f"{view['id']} is shown with {view['events']} events, {run.events} are logged"
            )
        elif view["state"] in _FINAL and view["state"] != run.state:
            shard.fault(f"{view['id']} is shown as {view['state']}, it is {run.state}")

    def _mutation_answered(self, shard: ShardOracle, run: RunModel | None, request: Any) -> None:
        name = request.request_id
        if run is None or (name not in run.requests and name not in shard.seen):
            shard.fault(f"{type(request).__name__} {name} is acknowledged and not in the log")

    # -- the end -------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """Return what still has to end: runs, keys."""
        found = [
            f"{key} is {run.state}"
            for shard in self.shards.values()
            for key, run in shard.runs.items()
            if not run.evicted
        ]
        for shard in self.shards.values():
            homes = shard.homes
            found += shard.registry.unfinished(self.world.people.sent)
            found += [f"{k} is held by {list(h)}" for k, h in homes.holders.items() if h]
            found += [f"{k} is wanted by {list(w)}" for k, w in homes.waiters.items() if w]
        return found

    def final(self) -> None:
        """Check all that must hold when everything has ended."""
        for run, request in self.world.record.acknowledged:
            self._acknowledged(run, request)
        for shard, request in self.world.record.changes:
            check_changed(self.shards[shard], request)
        for key, held in self.holding.items():
            if held:
                self.world.violation(f"key {key} is still held by {held}")
        self._archive()
        runs = self.every_run()
        for run in runs.values():
            run.check_children()
        for shard in self.shards.values():
            shard.schedules.check(set(runs))
            shard.registry.check(set(runs), self.world.people.sent)
            self.world.agreement.check(shard.shard, shard.entries, shard.snapshots, shard.fault)

    def _acknowledged(self, name: str, request: Any) -> None:
        run = self.run(f"default/{name}")
        kind = type(request).__name__
        if run is None:
            self.world.violation(f"{kind} of {name} was acknowledged, the run is not in the log")
            return
        if kind != "SubmitRun":
            shard = self.shards[self.world.layout.home(f"default/{name}")]
            self._mutation_answered(shard, run, request)

    def _archive(self) -> None:
        kept = {f"{s.namespace}/{s.run}": (s, parts) for s, parts in self.world.archive.kept()}
        for shard in self.shards.values():
            for key, run in shard.runs.items():
                if key not in kept:
                    shard.fault(f"{key} is not in the archive")
                    continue
                summary, segments = kept[key]
                chunks = [chunk for segment in segments for chunk in unpack(segment.data)]
                if chunks != run.chunks:
                    shard.fault(
                        f"the archive's history of {key} is not what the log had: segments "
                        f"{[(s.first, len(unpack(s.data))) for s in segments]} hold events "
                        f"{[_decode(c)[1] for c in chunks]}, the log had "
                        f"{[_decode(c)[1] for c in run.chunks]}"
                    )
                if summary.state != run.state or summary.events != run.events:
                    shard.fault(f"{key} is archived as {summary}")
