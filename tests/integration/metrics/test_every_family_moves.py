"""Every family moves when the thing happens that it tells of: a cluster is worked with, and harmed.

A family that cannot be moved here (a full disk, a foreign message) is in `ELSEWHERE`, with the test
that moves it.
"""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from headrace.client import Client
from headrace.errors import HeadraceError
from headrace.messages import ScheduleSpec
from headrace.telemetry import (
    BusMetrics,
    CoordinatorMetrics,
    ProcessMetrics,
    WorkerMetrics,
    families,
)
from support import functions_app
from support.chaos import compiled
from support.cluster import TESTS, Cluster, Program, running, until, wait_for
from support.watched import Recorder, recording

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_OBSERVED = "tests/unit/runtime/test_observe.py::test_what_happens_seldom_is_counted_at_once"
_DELETED = "tests/unit/runtime/test_observe.py::test_what_is_deleted_is_counted"
_SHARD = "tests/unit/runtime/test_survey.py::test_what_an_owner_has_is_shown_and_goes_with_it"
_ANSWERS = "tests/unit/runtime/test_survey.py::test_answers_are_counted"
_DISPATCH = "tests/unit/runtime/test_survey.py::test_totals_of_the_dispatcher_are_taken_over"
_REPLICA = "tests/unit/runtime/test_survey.py::test_refusals_go_on_when_a_replica_begins_anew"
_UNASSIGNED = (
    "tests/unit/runtime/test_survey.py::test_shards_without_a_live_owner_and_changes_of_owners"
)
_COUNTED = "tests/unit/worker/test_counted.py::"
ELSEWHERE = {
    "runs_parked": _SHARD,
    "inbox_bytes": _SHARD,  # for milliseconds at a time, like the next
    "outbox_messages": _SHARD,
    "log_full": _SHARD,
    "shards_troubled": _SHARD,
    "archive_waiting": _SHARD,
    "archive_lag_seconds": _SHARD,
    "shards_unassigned": _UNASSIGNED,
    "questions_open": _ANSWERS,
    "takeover_entries": _OBSERVED,  # a warm standby leaves none to read
    "inbox_busy": _OBSERVED,
    "appends_full": _OBSERVED,
    "appends_fenced": _OBSERVED,
    "appends_unknown": _OBSERVED,
    "shard_rebuilds": _OBSERVED,
    "replies_kept_bytes": _ANSWERS,
    "replies_failed": _ANSWERS,
    "archive_expired": _DELETED,
    "blobs_swept": _DELETED,
    "blobs_swept_bytes": _DELETED,
    "blob_sweeps": _DELETED,
    "task_repeats": _DISPATCH,
    "task_refusals": _DISPATCH,
    "task_pending_bytes": _DISPATCH,
    "oversized": _DISPATCH,
    "steps_unheld": _DISPATCH,
    "control_rebuilds": _REPLICA,
    "control_refused": _REPLICA,
    "results_resent": _COUNTED + "test_results_count_once_when_sent_and_once_more_each_time",
    "draining": _COUNTED + "test_a_drain_is_shown",
    "tasks_dropped": _COUNTED + "test_what_is_not_run_counts_by_reason",
    "log_lines_dropped": _COUNTED + "test_lines_that_nobody_takes_are_dropped",
}
"""Attribute of a family -> test that moves it."""

WORK = """\
name: work
on:
  workflow_dispatch:
    inputs: {n: {default: x}}
jobs:
  main:
    runs-on: linux
    steps:
      - id: flaky
        run: test -e flag || { touch flag; exit 7; }
        retry: {max-attempts: 3, initial: 10ms}
      - run: echo done; echo oops >&2
      - if: false
        run: echo never
      - id: big
        run: echo "value=$(head -c 60000 /dev/zero | tr '\\0' x)" >> "$GITHUB_OUTPUT"
      - env: {BIG: "${{ steps.big.outputs.value }}"}
        run: test "${#BIG}" = 60000
      - lock: {name: "one", ttl: 10m}
        cache: {key: "k-${{ inputs.n }}", ttl: 1d}
        run: echo "image=1" >> "$GITHUB_OUTPUT"
"""
FAILS = "name: fails\njobs: {a: {runs-on: linux, steps: [{run: exit 3}]}}"
SLOW = """\
name: slow
concurrency: slow
jobs: {a: {runs-on: linux, steps: [{run: sleep 60}]}}
"""
TIMEOUT = """\
name: late
jobs:
  a:
    runs-on: linux
    steps:
      - {run: sleep 30, timeout-minutes: 0.005, retry: {max-attempts: 2, initial: 10ms}}
"""
CHATTY = """\
name: chatty
jobs: {a: {runs-on: linux, steps: [{run: "for i in $(seq 9); do echo $i; sleep 0.2; done"}]}}
"""
RETRIES = """\
name: retries
jobs:
  a: {runs-on: linux, steps: [{run: exit 1, retry: {max-attempts: 3, initial: 1500ms}}]}
"""
WAITS = "name: waits\njobs: {a: {steps: [{id: go, wait-for: {signal: go, timeout: 7d}}]}}"
GPU = "name: gpu\njobs: {a: {runs-on: gpu, steps: [{run: echo never}]}}"
WIDE = """\
name: wide
jobs:
  many:
    runs-on: linux
    strategy: {matrix: {n: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]}}
    steps: [{run: sleep 1}, {run: echo again}]
"""
STEPS = ", ".join(["{run: exit 0}"] * 120)
LONG = f"name: long\njobs: {{a: {{runs-on: linux, steps: [{STEPS}]}}}}"
"""More events in one shard than a snapshot waits for."""


def test_what_cannot_be_moved_here_is_moved_by_the_test_that_is_named():
    for attribute, test in ELSEWHERE.items():
        path, _, name = test.partition("::")
        body = (TESTS.parent / path).read_text().partition(f"def {name}(")[2].partition("\ndef ")[0]
        assert f"metrics.{attribute}" in body or f".{attribute}" in body, attribute


@pytest.fixture
async def cluster(tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "broken.py").write_text("import nothing_of_this_name")
    env = {
        "HEADRACE_CFG_COORDINATOR__SNAPSHOT_EVENTS": "100",
        "HEADRACE_CFG_DISPATCH__LEASE_MS": "1200",
        "HEADRACE_CFG_DISPATCH__HEARTBEAT_MS": "300",
        "HEADRACE_CFG_LIMITS__LOG_BYTES_MAX": "100000000",
        "HEADRACE_CFG_WORKER__PLUGINS": str(plugins),
        "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'examples'}",
    }
    made = Cluster(
        tmp_path,
        coordinators=3,
        workers=2,
        slots=4,
        env=env,
        shards=3,
        apps=["handlers:app", "support.functions_app:app"],
    )
    async with running(made):
        yield made


async def test_every_family_moves(cluster: Cluster) -> None:
    with recording(cluster.ports) as seen:
        async with await cluster.client() as client:
            await works(client, seen)
            await harms(cluster, client, seen)
            await until(lambda: not unmoved(seen), within_s=10, what=f"{unmoved(seen)} to move")


async def works(client: Client, seen: Recorder) -> None:
    """Work of every kind: well, badly, waiting, cancelled."""
    await client.definitions.register(compiled(WORK))
    spec = ScheduleSpec(cron="0 0 1 1 *")
    parked = await client.submit(functions_app.talk.plan, {"text": "one"})
    await client.schedules.create("yearly", spec, compiled(FAILS))
    await client.events.publish("nobody.waits", {})
    plan, fails = compiled(WORK), compiled(FAILS)
    waiting = await client.submit(compiled(WAITS))
    stuck = await client.submit(compiled(GPU))
    slow = await client.submit(compiled(SLOW))
    runs = [await client.submit(plan, {"n": f"n{number % 2}"}) for number in range(12)]
    runs += [await client.submit(fails), await client.submit(compiled(TIMEOUT))]
    runs += [await client.submit(compiled(WIDE)), await client.submit(compiled(LONG))]
    await asyncio.gather(*(client.wait(run.id, 60) for run in runs))
    await moves(seen, "snapshots_total")
    with pytest.raises(HeadraceError):
        await client.submit(plan, {"n": "other"}, run_id=runs[0].id)
    await client.pause(slow.id)
    await moves(seen, "runs", state="paused")
    await client.resume(slow.id)
    await client.cancel(slow.id)
    await client.signal(waiting.id, "go")
    await moves(seen, "missing_capabilities")
    await moves(seen, "lane_oldest_ready_seconds", lane="gpu")
    await client.cancel(stuck.id)
    await moves(seen, "worker_parked_functions")
    await client.cancel(parked.id)
    await client.list()


async def harms(cluster: Cluster, client: Client, seen: Recorder) -> None:
    """Workers die and freeze; the broker freezes, and is started anew; an owner dies."""
    await a_worker_dies(cluster, client, seen)
    await a_worker_freezes(cluster, client, seen)
    await the_broker_freezes(cluster, client, seen)
    await the_broker_is_started_anew(cluster, client, seen)
    cluster.coordinators[0].kill()
    await moves(seen, "shard_moves_total")
    cluster.coordinators[0].start()
    await cluster.ready()


async def a_worker_dies(cluster: Cluster, client: Client, seen: Recorder) -> None:
    run = await client.submit(compiled(SLOW))
    worker = await held_by(cluster, client, run.id)
    worker.kill()
    await moves(seen, "workers_lost_total")
    await moves(seen, "step_retries_total", reason="worker_lost")
    worker.start()
    await cluster.ready()
    await client.cancel(run.id)


async def a_worker_freezes(cluster: Cluster, client: Client, seen: Recorder) -> None:
    run = await client.submit(compiled(CHATTY))
    worker = await held_by(cluster, client, run.id)
    worker.freeze()
    await client.wait(run.id, 20)
    worker.thaw()
    await moves(seen, "worker_stalls_total")
    await moves(seen, "results_refused_total")
    await moves(seen, "worker_results_refused_total")


async def the_broker_freezes(cluster: Cluster, client: Client, seen: Recorder) -> None:
    runs = [await client.submit(compiled(RETRIES)) for _ in range(6)]
    await asyncio.sleep(0.5)
    runs += [await client.submit(compiled(WIDE))]
    cluster.brokers[0].pause()
    await moves(seen, "timer_overdue_seconds")
    cluster.brokers[0].resume()
    for run in runs:
        await client.wait(run.id, 30)


async def the_broker_is_started_anew(cluster: Cluster, client: Client, seen: Recorder) -> None:
    run = await client.submit(compiled(CHATTY))
    await held_by(cluster, client, run.id)
    await cluster.brokers[0].kill()
    await moves(seen, "worker_log_backlog_bytes")
    await cluster.brokers[0].start()
    await moves(seen, "task_stream_losses_total")
    await cluster.ready()
    await client.wait(run.id, 30)


async def held_by(cluster: Cluster, client: Client, run: str) -> Program:
    """Return the worker that has a step of *run*."""

    async def holder() -> str:
        view = await client.get(run)
        return next((step.worker for step in view.steps if step.worker), "")

    name = await wait_for(holder, within_s=10, what="a holder")
    return next(worker for worker in cluster.workers if worker.name == name)


async def moves(seen: Recorder, name: str, **labels: str) -> None:
    """Return once a series is above zero."""
    await until(lambda: seen.value(name, **labels) > 0, within_s=15, what=f"{name} {labels}")


def unmoved(seen: Recorder) -> list[str]:
    """Return the families that nothing has moved yet, but for those of `ELSEWHERE`."""
    sets = (CoordinatorMetrics, WorkerMetrics, BusMetrics, ProcessMetrics)
    return [
        family.name
        for kind in sets
        for attribute, family in families(kind(CollectorRegistry())).items()
        if attribute not in ELSEWHERE and not seen.moved(family.name)
    ]
