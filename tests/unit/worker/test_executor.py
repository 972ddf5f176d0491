"""Attempts from submission to result, without a broker."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from pathlib import Path

import msgspec
import pytest

from headrace.errors import NotFound
from headrace.messages import ClaimReply, ResultStatus
from headrace.worker.core import Stop
from headrace.worker.handlers import Context, HandlerError, handler
from support.fakebus import FakeClock
from support.worker_bench import ORIGIN
from support.worker_owner import make_task, output_of


@pytest.fixture(params=[False, True], ids=["soon", "at once"])
def at_once(request: pytest.FixtureRequest) -> bool:
    return request.param


class Order(msgspec.Struct):
    item: str
    count: int = 1


class Shipped(msgspec.Struct):
    item: str
    parcels: list[int]


def error_of(result) -> tuple[str, bool]:
    assert result.status == ResultStatus.FAILED
    assert result.error is not None
    return result.error.type, result.error.retryable


async def test_typed_inputs_and_outputs(make_bench) -> None:
    @handler("ship")
    async def ship(ctx: Context, order: Order) -> Shipped:
        return Shipped(order.item, list(range(order.count)))

    bench = make_bench(handlers=[ship])
    result = await bench.run_one(make_task(uses="ship", inputs={"item": "cup", "count": "3"}))
    assert output_of(result) == {"item": "cup", "parcels": [0, 1, 2]}
    assert result.status == ResultStatus.COMPLETED


async def test_wrong_inputs_fail_for_good(make_bench) -> None:
    @handler("ship")
    async def ship(ctx: Context, order: Order) -> None: ...

    bench = make_bench(handlers=[ship])
    result = await bench.run_one(make_task(uses="ship", inputs={"count": 3}))
    assert error_of(result) == ("invalid-input", False)
    assert "item" in result.error.message


async def test_unknown_handler_fails_for_good(bench) -> None:
    result = await bench.run_one(make_task(uses="nonesuch"))
    assert error_of(result) == ("unknown-handler", False)


async def test_errors_become_types_and_tracebacks_go_to_the_log(make_bench) -> None:
    @handler("fails")
    async def fails(ctx: Context, inputs: dict) -> None:
        kind = inputs["kind"]
        if kind == "own":
            raise HandlerError("teapot", "short and stout", retryable=False)
        if kind == "ours":
            raise NotFound("no such thing")
        if kind == "exit":
            raise SystemExit(3)
        raise ValueError("bad value")

    bench = make_bench(handlers=[fails])
    own, ours, leaving, other = [
        await bench.run_one(make_task(f"d/{kind}", uses="fails", inputs={"kind": kind}))
        for kind in ("own", "ours", "exit", "other")
    ]
    assert error_of(own) == ("teapot", False)
    assert error_of(ours) == ("not-found", True)
    assert error_of(leaving) == ("SystemExit", True)
    assert error_of(other) == ("ValueError", True)
    assert other.error.message == "bad value"
    assert bench.text("system")[-1] == "ValueError: bad value"
    assert not any("HandlerError" in line for line in bench.text())


@pytest.mark.parametrize(
    ("returned", "output"),
    [(None, {}), ({"a": 1}, {"a": 1}), (5, {"result": 5}), ([1], {"result": [1]})],
)
async def test_whatever_is_returned_becomes_a_map(make_bench, returned, output) -> None:
    @handler("gives")
    async def gives(ctx: Context, inputs: dict):
        return returned

    result = await make_bench(handlers=[gives]).run_one(make_task(uses="gives"))
    assert output_of(result) == output


@pytest.mark.parametrize("returned", [{1: 2}, {"x": object()}])
async def test_what_cannot_be_encoded_fails_for_good(make_bench, returned) -> None:
    @handler("gives")
    async def gives(ctx: Context, inputs: dict):
        return returned

    result = await make_bench(handlers=[gives]).run_one(make_task(uses="gives"))
    assert error_of(result) == ("invalid-output", False)


async def test_burst_runs_in_order_in_one_task(make_bench) -> None:
    tasks = set()

    @handler("who")
    async def who(ctx: Context, inputs: dict) -> None:
        tasks.add(asyncio.current_task())

    bench = make_bench(handlers=[who])
    burst = [make_task("d/r", step, uses="who", token=step) for step in range(1, 101)]
    results = await bench.run(*burst)
    assert [result.step for result in results] == list(range(1, 101))
    assert len(tasks) == 1


async def test_suspended_handlers_keep_their_task_and_run_together(make_bench) -> None:
    meeting = asyncio.Barrier(4)
    seen: list[tuple[object, object]] = []

    @handler("meets")
    async def meets(ctx: Context, inputs: dict) -> None:
        before = asyncio.current_task()
        async with asyncio.timeout(30):
            await meeting.wait()
        seen.append((before, asyncio.current_task()))

    bench = make_bench(handlers=[meets], slots=4)
    tasks = [make_task("d/r", step, uses="meets", token=step) for step in range(1, 9)]
    results = await bench.run(*tasks)
    assert len(results) == 8
    assert all(before is after for before, after in seen)
    assert len({before for before, _ in seen[:4]}) == 4


async def test_slots_bound_what_runs(make_bench) -> None:
    running = peak = 0

    @handler("counts")
    async def counts(ctx: Context, inputs: dict) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        for _ in range(10):
            await asyncio.sleep(0)
        running -= 1

    bench = make_bench(handlers=[counts], slots=3)
    await bench.run(*[make_task("d/r", n, uses="counts", token=n) for n in range(1, 50)])
    assert peak == 3


async def test_sync_handlers_run_in_threads_with_context_and_log(make_bench) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @handler("blocks")
    def blocks(ctx: Context, inputs: dict) -> dict:
        variable.set("leaked")
        ctx.log("from\nthe thread")
        ctx.heartbeat({"at": 1})
        return {"main": threading.current_thread() is threading.main_thread()}

    bench = make_bench(handlers=[blocks])
    for step in range(1, 4):
        result = await bench.run_one(make_task("d/r", step, uses="blocks", token=step))
        assert output_of(result) == {"main": False}
    assert bench.text("stdout") == ["from", "the thread"] * 3
    assert variable.get() == "unset"


async def test_context_says_who_and_where(make_bench) -> None:
    said: dict[str, object] = {}

    @handler("who")
    async def who(ctx: Context, inputs: dict) -> None:
        said.update(
            run=ctx.run,
            path=ctx.path,
            attempt=ctx.attempt,
            token=ctx.token,
            key=ctx.idempotency_key,
            env=ctx.env,
            folder=ctx.workspace,
        )
        assert ctx.workspace.is_dir()

    bench = make_bench(handlers=[who])
    await bench.run(make_task("d/r", uses="who", attempt=2, token=7, path="a/b", env={"A": "b"}))
    folder = said.pop("folder")
    assert said == {
        "run": "d/r",
        "path": "a/b",
        "attempt": 2,
        "token": 7,
        "key": "d/r/a/b",
        "env": {"A": "b"},
    }
    assert isinstance(folder, Path)
    assert not folder.exists()


async def test_job_workspace_is_kept(make_bench) -> None:
    @handler("appends")
    async def appends(ctx: Context, inputs: dict) -> dict:
        with (ctx.workspace / "file").open("a") as file:
            file.write("x")
        return {"size": (ctx.workspace / "file").stat().st_size}

    bench = make_bench(handlers=[appends])
    for step in (1, 2):
        task = make_task("d/r", step, uses="appends", token=step, workspace="d/r/build[a/b]#0")
        result = await bench.run_one(task)
    assert output_of(result) == {"size": 2}


# -- stopping ----------------------------------------------------------------------------------


@handler("hangs")
async def hangs(ctx: Context, inputs: dict) -> None:
    ctx.log("in")
    await asyncio.Event().wait()


async def test_cancel_while_running_and_while_waiting(make_bench) -> None:
    bench = make_bench(handlers=[hangs], slots=1)
    tasks = [make_task("d/r", step, uses="hangs", token=step) for step in (1, 2)]
    bench.executor.submit(ORIGIN, tasks)
    await bench.until(lambda: bench.text() == ["in"])
    assert not bench.executor.cancel("d/r", 1, 99, "")
    assert not bench.executor.cancel("d/r", 99, 1, "")
    assert bench.executor.cancel("d/r", 2, 1, "two")
    assert bench.executor.cancel("d/r", 1, 1, "one")
    await bench.executor.wait_idle()
    ended = {result.step: result for result in bench.results}
    assert {r.status for r in bench.results} == {ResultStatus.CANCELLED}
    assert [ended[step].error.message for step in (1, 2)] == ["one", "two"]


async def test_timeout_of_the_attempt(make_bench) -> None:
    bench = make_bench(handlers=[hangs])
    result = await bench.run_one(make_task(uses="hangs", timeout_ms=20))
    assert error_of(result) == ("timeout", True)
    assert "20 ms" in result.error.message


async def test_timeout_of_the_heartbeat(make_bench) -> None:
    beaten, clock = 0, FakeClock()

    @handler("beats")
    async def beats(ctx: Context, inputs: dict) -> None:
        nonlocal beaten
        for beaten in range(4):
            ctx.heartbeat(beaten)
            clock.advance(19)
            # Real time in which the executor looks, at least once.
            await asyncio.sleep(0.025)
        clock.advance(20)
        await asyncio.Event().wait()

    bench = make_bench(handlers=[beats], clock=clock)
    result = await bench.run_one(make_task(uses="beats", heartbeat_timeout_ms=20))
    assert error_of(result) == ("timeout", True)
    assert "no heartbeat" in result.error.message
    assert beaten == 3


@pytest.mark.parametrize(
    ("details", "why"),
    [("x" * 5_000, "details-too-large"), (object(), "invalid-details")],
)
async def test_details_that_no_heartbeat_can_carry_end_the_attempt(make_bench, details, why):
    @handler("tells")
    async def tells(ctx: Context, inputs: dict) -> None:
        ctx.heartbeat(details)

    bench = make_bench(handlers=[tells])
    assert error_of(await bench.run_one(make_task(uses="tells"))) == (why, False)


async def test_a_heartbeat_without_details_leaves_those_before(make_bench):
    @handler("tells")
    async def tells(ctx: Context, inputs: dict) -> list:
        ctx.heartbeat({"done": 3})
        ctx.heartbeat()
        return [held.said() for held in bench.executor.assignments]

    bench = make_bench(handlers=[tells])
    result = await bench.run_one(make_task(uses="tells"))
    assert msgspec.msgpack.decode(result.output) == {"result": [{"done": 3}]}


async def test_immediate_end_arms_no_timer(make_bench) -> None:
    bench = make_bench()
    result = await bench.run_one(make_task(timeout_ms=1, heartbeat_timeout_ms=1))
    assert result.status == ResultStatus.COMPLETED


async def test_sync_handler_is_cancelled_only_when_its_thread_has_ended(make_bench) -> None:
    let_go, inside = threading.Event(), threading.Event()

    @handler("stubborn")
    def stubborn(ctx: Context, inputs: dict) -> None:
        inside.set()
        let_go.wait(10)
        if ctx.cancelled:
            raise RuntimeError("stopped")

    bench = make_bench(handlers=[stubborn])
    bench.executor.submit(ORIGIN, [make_task(uses="stubborn")])
    await asyncio.to_thread(inside.wait, 5)
    bench.executor.cancel("default/r1", 1, 1, "enough")
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.results == []
    assert len(bench.executor.assignments) == 1
    let_go.set()
    await bench.executor.wait_idle()
    assert [result.status for result in bench.results] == [ResultStatus.CANCELLED]


async def test_handler_that_cancels_itself_has_failed(make_bench) -> None:
    @handler("odd")
    async def odd(ctx: Context, inputs: dict) -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    result = await make_bench(handlers=[odd]).run_one(make_task(uses="odd"))
    assert error_of(result) == ("CancelledError", True)


async def test_newer_attempt_stops_the_older_and_runs_after_it(make_bench) -> None:
    order: list[str] = []

    @handler("slow")
    async def slow(ctx: Context, inputs: dict) -> None:
        order.append(f"in {ctx.attempt}")
        if ctx.attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                order.append("out 1")

    bench = make_bench(handlers=[slow])
    bench.executor.submit(ORIGIN, [make_task(uses="slow", token=1)])
    while not order:
        await asyncio.sleep(0)
    (result,) = await bench.run(make_task(uses="slow", attempt=2, token=2))
    assert order == ["in 1", "out 1", "in 2"]
    assert (result.attempt, result.token) == (2, 2)


async def test_token_taken_over_while_running_is_answered(make_bench) -> None:
    gate = asyncio.Event()

    @handler("waits")
    async def waits(ctx: Context, inputs: dict) -> None:
        await gate.wait()

    bench = make_bench(handlers=[waits])
    bench.executor.submit(ORIGIN, [make_task(uses="waits", token=1)])
    await asyncio.sleep(0)
    bench.executor.submit(ORIGIN, [make_task(uses="waits", token=5)])
    gate.set()
    await bench.executor.wait_idle()
    assert [result.token for result in bench.results] == [5]


async def test_full_queue_hands_back(make_bench) -> None:
    bench = make_bench(slots=1, queue_max=2)
    results = await bench.run(*[make_task("d/r", n, token=n) for n in range(1, 5)])
    assert [(r.step, r.status) for r in results] == [
        (3, ResultStatus.RETURNED),
        (4, ResultStatus.RETURNED),
        (1, ResultStatus.COMPLETED),
        (2, ResultStatus.COMPLETED),
    ]
    (again,) = await bench.run(make_task("d/r", 3, token=3))
    assert again.status == ResultStatus.COMPLETED


async def test_close_reports_what_it_killed_but_not_at_most_once(make_bench) -> None:
    bench = make_bench(handlers=[hangs])
    tasks = [
        make_task("d/r", 1, uses="hangs", token=1),
        make_task("d/r", 2, uses="hangs", token=2, at_most_once=True),
    ]
    bench.executor.submit(ORIGIN, tasks)
    await bench.until(lambda: bench.text().count("in") == 2)
    assert await bench.executor.close(kill_s=5) == 0
    assert [(r.step, *error_of(r)) for r in bench.results] == [(1, "worker-stopped", True)]


async def test_close_does_not_wait_for_a_stuck_thread(make_bench) -> None:
    let_go, inside = threading.Event(), threading.Event()

    @handler("stuck")
    def stuck(ctx: Context, inputs: dict) -> None:
        inside.set()
        let_go.wait(10)

    bench = make_bench(handlers=[stuck])
    bench.executor.submit(ORIGIN, [make_task(uses="stuck")])
    await asyncio.to_thread(inside.wait, 5)
    assert await bench.executor.close(kill_s=0.01) == 1
    assert bench.results == []
    let_go.set()


async def test_stop_of_what_does_not_run_changes_nothing(make_bench) -> None:
    bench = make_bench(handlers=[hangs], slots=1)
    bench.executor.submit(ORIGIN, [make_task("d/r", n, uses="hangs", token=n) for n in (1, 2)])
    waiting = bench.executor.assignments.get("d/r", 2)
    bench.executor.stop(waiting, Stop("shutdown"))
    assert waiting.stop is None


# -- before the effect -------------------------------------------------------------------------


async def test_claim_is_asked_and_obeyed(bench) -> None:
    granted = await bench.run(make_task("d/yes", at_most_once=True))
    assert [result.status for result in granted] == [ResultStatus.COMPLETED]
    bench.grant = ClaimReply(False)
    assert await bench.run(make_task("d/no", at_most_once=True)) == []
    bench.grant = ClaimReply(True, start_by_ms=1)
    late = await bench.run_one(make_task("d/late", at_most_once=True))
    assert late.status == ResultStatus.RETURNED
    assert [task.run for task in bench.claims] == ["d/yes", "d/no", "d/late"]


async def test_too_late_to_start_is_handed_back(bench) -> None:
    result = await bench.run_one(make_task(start_by_ms=1))
    assert result.status == ResultStatus.RETURNED


# -- large payloads ----------------------------------------------------------------------------


@handler("large")
async def large(ctx: Context, inputs: dict) -> dict:
    return {"text": "x" * inputs["size"]}


async def test_large_outputs_go_to_the_store_and_back_in(make_bench) -> None:
    bench = make_bench(handlers=[large], inline_bytes=1_000)
    result = await bench.run_one(make_task(uses="large", inputs={"size": 2_000}))
    reference = output_of(result)["text"]
    assert reference["$blob"]["size"] > 2_000
    (stored,) = bench.blobs.values()
    assert msgspec.msgpack.decode(stored) == "x" * 2_000
    task = make_task("default/r2", inputs={"got": reference, "list": [reference]})
    back = await bench.run_one(task)
    assert list(bench.blobs) == ["default/r1/0", "default/r2/1", "default/r2/2"]
    assert msgspec.msgpack.decode(bench.blobs["default/r2/1"]) == "x" * 2_000
    assert msgspec.msgpack.decode(bench.blobs["default/r2/2"]) == ["x" * 2_000]
    assert back.status == ResultStatus.COMPLETED


async def test_over_the_hard_limit_fails_for_good(make_bench) -> None:
    bench = make_bench(handlers=[large], inline_bytes=100, bytes_max=1_000)
    result = await bench.run_one(make_task(uses="large", inputs={"size": 2_000}))
    assert error_of(result) == ("result-too-large", False)
    assert bench.blobs == {}


async def test_without_a_store_outputs_stay_inline(make_bench) -> None:
    bench = make_bench(handlers=[large], inline_bytes=100, with_blobs=False)
    result = await bench.run_one(make_task(uses="large", inputs={"size": 2_000}))
    assert len(output_of(result)["text"]) == 2_000


async def test_missing_blob_fails_the_step(bench) -> None:
    inputs = {"x": {"$blob": {"ref": "default/gone", "size": 10}}}
    result = await bench.run_one(make_task(inputs=inputs))
    assert error_of(result) == ("not-found", True)


async def test_blobs_of_another_namespace_are_not_read(bench) -> None:
    bench.blobs["other/r1/0"] = msgspec.msgpack.encode("theirs")
    inputs = {"x": {"$blob": {"ref": "other/r1/0", "size": 7}}}
    result = await bench.run_one(make_task("default/r1", inputs=inputs))
    assert error_of(result) == ("not-allowed", False)
