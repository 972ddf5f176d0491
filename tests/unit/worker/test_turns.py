"""The worker's side of turns: its cache, its reports, and how it lets go."""

import asyncio
import gc
import weakref

import msgspec
import pytest

from headrace.errors import Unreachable
from headrace.messages import Task, TurnOutcome, TurnReply, TurnWake
from headrace.sdk import App, Context, Execution, new_execution
from headrace.worker.core import Assignment, Origin, Stop
from headrace.worker.handlers import Registry
from headrace.worker.outcomes import HandBack, TurnOver
from headrace.worker.parked import ParkedFunctions
from headrace.worker.payloads import Payloads
from headrace.worker.turns import Turns
from support.journal_owner import JournalOwner

app = App("turns")
started: list[str] = []
WITHIN_S = 10


@app.step
async def echo(n: int) -> int:
    return n


@app.workflow
async def waits(ctx: Context, n: int) -> int:
    started.append(ctx.run_id)
    ctx.query("n", lambda: n)
    n += await ctx.step(echo, 1)
    n += await ctx.signal("go", int)
    return n + await ctx.step(echo, 100)


@app.workflow
async def waits_in_all_ways(ctx: Context, n: int) -> int:
    seen: list[int] = []
    ctx.query("seen", lambda: (ctx.run_id, seen))
    ctx.update("add", seen.append, validate=lambda n: ctx.now())
    ctx.on_signal("more", seen.append)
    ctx.compensate(echo, 1)

    async def branch() -> int:
        return await ctx.signal("a", int) + await ctx.step(echo, 1)

    held = ctx.parallel([branch(), branch(), ctx.signal("b", int, timeout=60)], join=2)
    await ctx.parallel(held, ctx.wait_until(lambda: len(seen) > n, timeout=60), ctx.sleep(60))
    return n


class Desk:
    """A `TurnDesk` on owners in memory, by run; loses answers as told."""

    def __init__(self):
        self.owners: dict[str, JournalOwner] = {}
        self.lost = 0
        self.page = 0

    async def turn(self, origin, report):
        await asyncio.sleep(0)
        owner = self.owners[report.run]
        reply = owner.report(
            report.token,
            report.sequence,
            report.seen,
            report.changes,
            report.end,
            report.answers,
            report.ahead,
        )
        if self.lost:
            self.lost -= 1
            raise Unreachable("lost on the way")
        if self.page:
            return TurnReply(reply.refused, reply.entries[: self.page], reply.number)
        return reply


class HandlerContext:
    def __init__(self, run):
        self.run = run
        self.lines = []
        self.opened_log = None

    def log(self, line, *, stream="stdout"):
        self.lines.append(line)

    def heartbeat(self, details=None):
        pass


class Bench:
    """A `Turns` with runs to give it."""

    def __init__(self, **options):
        self.desk = Desk()
        self.options = options
        self.start()

    def start(self):
        """Begin a worker that knows nothing of the one before."""
        self.turns = Turns(self.desk, Payloads(), worker="w", incarnation="i", **self.options)

    def owner(self, run="ns/a"):
        return self.desk.owners.setdefault(run, JournalOwner({"n": 1}))

    def assignment(self, run, token, inputs):
        task = Task(run, 1, "waits", 1, token, waits.uses, inputs)
        return Assignment(task, Origin(0, "ns"), 0, token)

    async def turn(self, run="ns/a", *, since=0, workflow=waits, withheld=False):
        owner = self.owner(run)
        token, turn = owner.turn(since=since)
        if withheld:
            turn = msgspec.structs.replace(turn, entries=[], since=owner.number)
        raw = msgspec.Raw(msgspec.msgpack.encode(turn))
        self.current = self.assignment(run, token, raw)
        async with asyncio.timeout(WITHIN_S):
            await self.turns.run(workflow, HandlerContext(run), self.current, raw)


@pytest.fixture(autouse=True)
def _clean():
    started.clear()


class Held:
    """A workflow of *steps* calls of a step that waits for a gate."""

    def __init__(self, steps: int) -> None:
        self.gate, self.inside = asyncio.Event(), asyncio.Event()
        app = App("held")

        @app.step
        async def slow() -> int:
            self.inside.set()
            await self.gate.wait()
            return 1

        @app.workflow
        async def held(ctx: Context, n: int) -> int:
            ctx.query("n", lambda: 42)
            return sum([await ctx.step(slow) for _ in range(steps)])

        self.workflow = held

    async def begun(self, bench):
        """Begin a turn of it, and return its task once the step is inside."""
        task = asyncio.create_task(bench.turn(workflow=self.workflow))
        async with asyncio.timeout(WITHIN_S):
            await self.inside.wait()
        return task


async def over(bench, run="ns/a", **how):
    with pytest.raises(TurnOver):
        await bench.turn(run, **how)


async def test_a_function_that_waits_is_kept_and_not_replayed():
    bench = Bench()
    await over(bench)
    owner = bench.owner()
    assert len(bench.turns.parked) == 1
    known = owner.number
    owner.signal("go", 5)
    await over(bench, since=known)
    assert msgspec.msgpack.decode(owner.end.value) == 107
    assert started == ["a"]
    assert len(bench.turns.parked) == 0


async def test_a_function_of_old_code_is_replayed_with_the_new():
    bench = Bench()
    await over(bench)
    fresh = App("turns")

    @fresh.workflow(name="waits")
    async def changed(ctx: Context, n: int) -> int:
        n += await ctx.step(echo, 1)
        return n + 1_000 * await ctx.signal("go", int)

    owner = bench.owner()
    known = owner.number
    owner.signal("go", 5)
    await over(bench, since=known, workflow=changed)
    assert msgspec.msgpack.decode(owner.end.value) == 5_002
    assert list(owner.journal) == ["echo#1", "signal:go#1"]


async def test_the_cache_is_bounded_and_what_left_it_is_replayed():
    bench = Bench(parked=ParkedFunctions(count_max=3))
    runs = [f"ns/r{n}" for n in range(10)]
    for run in runs:
        await over(bench, run)
    assert len(bench.turns.parked) == 3
    for run in runs:
        owner = bench.owner(run)
        owner.signal("go", 5)
        # The owner believes that it is all here still.
        await over(bench, run, since=owner.number - 1)
        assert msgspec.msgpack.decode(owner.end.value) == 107
    assert len(started) == 10 + 7


@app.step
async def fat(n: int) -> list[str]:
    return ["abcdefgh"] * n


@app.workflow
async def fattens(ctx: Context, n: int) -> int:
    for _ in range(n):
        await ctx.step(fat, 1_000)
        await ctx.signal("go", int)
    return n


async def test_the_cache_is_bounded_by_bytes_too():
    bytes_max = 200_000
    bench = Bench(parked=ParkedFunctions(bytes_max=bytes_max))
    parked = bench.turns.parked
    sizes = []
    for run in range(10):
        await over(bench, f"ns/r{run}", workflow=fattens)
        sizes.append(parked.bytes)
        assert parked.bytes <= bytes_max
    one = sizes[0]
    # What it was sent, and what Python makes of it.
    assert 9_000 * 3 < one < 9_000 * 8
    assert sizes == [one * min(n + 1, bytes_max // one) for n in range(10)]
    assert len(parked) == bytes_max // one
    # It grows with what it learns, and what has gone on is not there any more.
    for run in reversed(range(10 - len(parked), 10)):
        owner = bench.owner(f"ns/r{run}")
        known = owner.number
        owner.signal("go", 5)
        before = parked.bytes
        await over(bench, f"ns/r{run}", since=known, workflow=fattens)
        assert owner.end.outcome == TurnOutcome.COMPLETED
        assert parked.bytes == before - one
    assert (len(parked), parked.bytes) == (0, 0)


async def test_a_function_that_is_too_large_to_keep_is_not_kept():
    bench = Bench(parked=ParkedFunctions(bytes_max=20_000))
    await over(bench)
    assert len(bench.turns.parked) == 1
    await over(bench, "ns/large", workflow=fattens)
    assert (len(bench.turns.parked), bench.turns.parked.bytes) == (0, 0)


@pytest.fixture
def no_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("workflow", [waits, waits_in_all_ways])
async def test_what_left_the_cache_is_free_without_a_search_for_cycles(
    no_collector, monkeypatch, workflow
):
    """A worker looks for them rarely: functions that wait would pile up until then."""
    made: list[weakref.ref[Execution]] = []

    def make(*args, **options):
        execution = new_execution(*args, **options)
        made.append(weakref.ref(execution))
        return execution

    monkeypatch.setattr("headrace.worker.turns.new_execution", make)
    bench = Bench(parked=ParkedFunctions(count_max=2))
    for n in range(5):
        await over(bench, f"ns/r{n}", workflow=workflow)
    await asyncio.sleep(0)
    assert [ref() is None for ref in made] == [True, True, True, False, False]


async def test_what_the_turn_leaves_out_is_asked_for_in_pages():
    bench = Bench()
    await over(bench)
    bench.start()
    owner = bench.owner()
    owner.signal("go", 5)
    bench.desk.page = 1
    await over(bench, withheld=True)
    assert msgspec.msgpack.decode(owner.end.value) == 107


async def test_a_kept_function_asks_for_what_it_was_not_sent():
    bench = Bench()
    await over(bench)
    owner = bench.owner()
    owner.signal("go", 5)
    await over(bench, withheld=True)
    assert msgspec.msgpack.decode(owner.end.value) == 107
    assert started == ["a"]


async def test_a_report_is_sent_until_it_is_answered_and_recorded_once():
    bench = Bench()
    bench.desk.lost = 3
    await over(bench)
    owner = bench.owner()
    assert len(owner.reports) == 1
    assert list(owner.journal) == ["echo#1", "signal:go#1"]


async def test_a_refused_turn_ends_and_its_function_is_forgotten():
    bench, held = Bench(), Held(1)
    task = await held.begun(bench)
    bench.owner().lose()
    held.gate.set()
    with pytest.raises(TurnOver):
        await task
    assert len(bench.turns.parked) == 0
    assert bench.owner().journal == {}


async def test_a_draining_worker_records_what_runs_and_hands_the_turn_back():
    bench, held = Bench(), Held(2)
    task = await held.begun(bench)
    bench.turns.drain()
    held.gate.set()
    with pytest.raises(HandBack):
        await task
    assert list(bench.owner().journal) == ["slow#1"]
    bench.owner().lose()
    with pytest.raises(HandBack):
        await bench.turn(workflow=held.workflow)


async def test_a_worker_that_stops_hands_back_what_it_cannot_finish():
    bench, held = Bench(), Held(1)
    task = await held.begun(bench)
    bench.current.stop = Stop("shutdown", "the worker stops")
    task.cancel()
    with pytest.raises(HandBack):
        await task


async def test_a_wake_makes_a_running_turn_ask():
    bench, held = Bench(), Held(1)
    task = await held.begun(bench)
    owner = bench.owner()
    owner.query("q", "n")
    bench.turns.wake(TurnWake("ns/a", 1, owner.token))
    async with asyncio.timeout(WITHIN_S):
        while "q" not in owner.answers:
            await asyncio.sleep(0)
    held.gate.set()
    with pytest.raises(TurnOver):
        await task
    assert msgspec.msgpack.decode(owner.answers["q"].value) == 42
    assert owner.end.outcome == TurnOutcome.COMPLETED


def test_apps_and_versions_are_served_side_by_side():
    registry = Registry()
    apps = [App("shop", "1"), App("shop", "2"), App("other")]
    for one in apps:
        one.step(echo.function)
        one.workflow(waits.function)
        registry.serve(one)
    assert sorted(registry.apps) == ["app:other@1", "app:shop@1", "app:shop@2"]
    assert {"shop@1/waits", "shop@2/waits", "shop@2/.step"} <= set(registry.describe())
    described = registry.describe()["shop@2/waits"]
    assert described["version"] == "2"
    assert described["inputs"]["properties"] == {"n": {"type": "integer"}}
    # A reloaded module has another object in its place.
    again = App("shop", "2")
    again.workflow(waits.function)
    registry.serve(again)
    assert registry.apps["app:shop@2"] is again
