"""A worker against a real broker and a scripted owner."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from headrace.bus import connect
from headrace.messages import (
    CancelStep,
    ClaimReply,
    DrainWorker,
    EpochNotice,
    ResultReply,
    ResultStatus,
)
from support.broker import eventually
from support.worker_owner import Owner, make_task, output_of

pytestmark = pytest.mark.integration


async def test_one_step_comes_back_with_outputs_and_lines(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    await start_worker(capabilities=("Linux", "gpu"))
    script = "echo hello; echo n=1 >> $GITHUB_OUTPUT"
    await owner.dispatch(lane, make_task(uses="shell", inputs={"run": script}))
    await owner.until(lambda: owner.results)
    (result,) = owner.results
    assert result.status == ResultStatus.COMPLETED
    assert output_of(result) == {"n": "1", "exit-code": 0, "stdout": "hello\n"}
    assert owner.text() == ["hello"]


async def test_first_heartbeat_says_who_it_is(owner: Owner, start_worker) -> None:
    worker, _ = await start_worker(slots=3)
    await owner.until(lambda: owner.heartbeats)
    beat = owner.heartbeats[0]
    assert (beat.id, beat.incarnation) == (worker.identity.id, worker.identity.incarnation)
    assert (beat.slots, beat.free, beat.lanes, beat.stopped) == (3, 3, [], False)


async def test_thousands_of_short_steps_all_come_back_once(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    await start_worker(slots=16)
    for batch in range(100):
        tasks = [
            make_task(f"default/r{batch}", step, token=batch * 16 + step) for step in range(16)
        ]
        await owner.dispatch(lane, *tasks)
    await owner.until(lambda: len(owner.results) >= 1_600)
    keys = {(r.run, r.step) for r in owner.results if r.status == ResultStatus.COMPLETED}
    returned = [r for r in owner.results if r.status == ResultStatus.RETURNED]
    assert len(keys) == 1_600 - len(returned)
    assert not returned
    assert max(map(len, owner.batches)) > 1


async def test_more_than_the_slots_take_is_left_to_others_and_nothing_lost(
    owner: Owner, start_worker
) -> None:
    lane = await owner.open_lane("linux")
    await start_worker(slots=4)
    tasks = [
        make_task("default/r", n, uses="sleep", inputs={"seconds": 0.005}, token=n)
        for n in range(1, 401)
    ]
    for n in range(0, 400, 4):
        await owner.dispatch(lane, *tasks[n : n + 4])
    # The broker would bring a lost message again after 30 s.
    await owner.until(lambda: len(owner.results) == 400)
    assert {result.status for result in owner.results} == {ResultStatus.COMPLETED}
    assert max(len(beat.held.get(0, [])) for beat in owner.heartbeats) < 40


async def test_results_are_sent_again_until_confirmed(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    owner.replies = [ResultReply(retry_after_ms=20), ResultReply(retry_after_ms=20)]
    await start_worker()
    await owner.dispatch(lane, make_task())
    await owner.until(lambda: owner.results)
    assert len(owner.batches) == 3
    assert owner.batches[0] == owner.batches[2]


async def test_unconfirmed_results_count_as_held(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    owner.replies = [ResultReply(retry_after_ms=60_000)]
    await start_worker()
    await owner.dispatch(lane, make_task("default/kept", 7))
    await owner.until(lambda: owner.batches)
    seen = len(owner.heartbeats)
    await owner.until(lambda: len(owner.heartbeats) > seen + 1)
    held = [(h.run, h.step) for h in owner.heartbeats[-1].held[owner.shard]]
    assert held == [("default/kept", 7)]


async def test_refused_results_are_dropped(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    owner.replies = [ResultReply(refused=[0])]
    worker, _ = await start_worker()
    await owner.dispatch(lane, make_task())
    await owner.until(lambda: owner.results)
    await asyncio.wait_for(worker.reporter.drained(), 30)
    assert len(owner.batches) == 1
    assert worker._metrics.results_refused.value() == 1


async def test_cancel_kills_the_process_group_first(
    owner: Owner, start_worker, tmp_path: Path
) -> None:
    lane = await owner.open_lane("linux")
    await start_worker()
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; sleep 600 & echo $! > {pid_file}; echo started; wait; sleep 600"
    task = make_task(uses="shell", inputs={"run": script}, cancel_grace_ms=100)
    await owner.dispatch(lane, task)
    await owner.until(lambda: "started" in owner.text())
    owner.order(CancelStep("default/r1", 1, 1, "not needed"))
    await owner.until(lambda: owner.results)
    (result,) = owner.results
    assert result.status == ResultStatus.CANCELLED
    assert result.error is not None
    assert result.error.message == "not needed"
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    assert not stat.exists() or re.search(r"\) [ZX] ", stat.read_text())


async def test_old_epochs_are_dropped(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    await start_worker()
    await owner.until(lambda: owner.heartbeats and owner.heartbeats[-1].lanes)
    owner.order(EpochNotice(owner.shard, 5))
    await owner.until(lambda: owner.heartbeats[-1].epochs == {owner.shard: 5})
    await owner.dispatch(lane, make_task("default/old", token=1), epoch=4)
    await owner.dispatch(lane, make_task("default/new", token=2), epoch=5)
    await owner.until(lambda: owner.results)
    assert [result.run for result in owner.results] == ["default/new"]


async def test_at_most_once_asks_first(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    await start_worker()
    await owner.dispatch(lane, make_task("default/yes", token=1, at_most_once=True))
    await owner.until(lambda: owner.of("default/yes"))
    assert [claim.run for claim in owner.claims] == ["default/yes"]
    owner.grant = ClaimReply(False)
    await owner.dispatch(lane, make_task("default/no", token=2, at_most_once=True))
    await owner.until(lambda: len(owner.claims) == 2)
    owner.grant = ClaimReply(True, start_by_ms=1)
    await owner.dispatch(lane, make_task("default/late", token=3, at_most_once=True))
    await owner.until(lambda: owner.of("default/late"))
    assert owner.of("default/late")[0].status == ResultStatus.RETURNED
    assert owner.of("default/no") == []


async def test_drain_finishes_what_runs_and_returns_the_rest(
    owner: Owner, start_worker, tmp_path: Path
) -> None:
    lane = await owner.open_lane("linux")
    _, running = await start_worker(slots=1, grace_ms=10_000)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo in; read line < {gate}; echo $line"
    await owner.dispatch(
        lane,
        make_task("default/runs", token=1, uses="shell", inputs={"run": script}),
        make_task("default/waits", token=2),
    )
    await owner.until(lambda: "in" in owner.text())
    owner.order(DrainWorker())
    await owner.until(lambda: owner.of("default/waits"))
    assert owner.of("default/waits")[0].status == ResultStatus.RETURNED
    await owner.until(lambda: owner.heartbeats[-1].draining)
    beats = len(owner.heartbeats)
    await owner.until(lambda: len(owner.heartbeats) > beats + 2)
    assert not running.done()
    await asyncio.to_thread(gate.write_text, "out\n")
    await asyncio.wait_for(running, 30)
    (ended,) = owner.of("default/runs")
    assert ended.status == ResultStatus.COMPLETED
    assert output_of(ended)["stdout"] == "in\nout\n"
    await owner.until(lambda: owner.heartbeats[-1].stopped)
    assert owner.heartbeats[-1].held == {}


async def test_drain_kills_after_the_grace(owner: Owner, start_worker) -> None:
    lane = await owner.open_lane("linux")
    _, running = await start_worker(grace_ms=10_000)
    script = "echo in; sleep 600"
    await owner.dispatch(lane, make_task("default/a", uses="shell", inputs={"run": script}))
    await owner.dispatch(
        lane,
        make_task("default/once", token=2, uses="shell", inputs={"run": script}, at_most_once=True),
    )
    await owner.until(lambda: owner.text().count("in") == 2)
    owner.order(DrainWorker())
    await owner.until(lambda: owner.heartbeats[-1].draining)
    owner.order(DrainWorker(grace_ms=1))
    await asyncio.wait_for(running, 30)
    (killed,) = owner.results
    assert killed.run == "default/a"
    assert killed.status == ResultStatus.FAILED
    assert killed.error is not None
    assert killed.error.type == "worker-stopped"
    await owner.until(lambda: owner.heartbeats[-1].stopped)


async def test_an_ordered_drain_may_take_longer_than_the_configured_grace(
    owner: Owner, start_worker, tmp_path: Path
) -> None:
    lane = await owner.open_lane("linux")
    _worker, running = await start_worker(grace_ms=1)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo in; read line < {gate}"
    await owner.dispatch(lane, make_task("default/a", uses="shell", inputs={"run": script}))
    await owner.until(lambda: "in" in owner.text())
    # Sent until its effect is seen, so it may come twice.
    for _ in range(2):
        owner.order(DrainWorker(grace_ms=60_000))
    await owner.until(lambda: owner.heartbeats[-1].draining)
    beats = len(owner.heartbeats)
    await owner.until(lambda: len(owner.heartbeats) > beats + 2)
    assert not running.done()
    await asyncio.to_thread(gate.write_text, "out\n")
    await asyncio.wait_for(running, 30)
    assert [result.status for result in owner.results] == [ResultStatus.COMPLETED]


async def test_worker_comes_back_after_the_broker_restarts(broker, start_worker) -> None:
    async with await connect(broker.url, name="owner") as bus:
        owner = Owner(bus)
        await owner.start()
        lane = await owner.open_lane("linux")
        worker, _ = await start_worker(url=broker.url)
        await owner.dispatch(lane, make_task("default/before", token=1))
        await owner.until(lambda: owner.of("default/before"))
        await broker.kill()
        await eventually(lambda: not worker.ready[0])
        await broker.start()
        await eventually(lambda: bus.connected, within_s=10)
        await owner.start()
        owner._offers.clear()
        lane = await owner.open_lane("linux")
        await owner.dispatch(lane, make_task("default/after", token=2))
        await owner.until(lambda: owner.of("default/after"), within_s=15)
        owner.stop()
