"""What processes say of themselves after some work: that the figures move at all."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.cluster import http_get, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

WORK = """\
name: work
jobs:
  main:
    runs-on: linux
    steps:
      - id: flaky
        run: test -e flag || { touch flag; exit 7; }
        retry: {max-attempts: 3, initial: 10ms}
      - run: echo done
      - if: false
        run: echo never
"""
MOVED_COORDINATOR = [
    ("log_appends_total", {}),
    ("log_append_seconds_count", {}),
    ("log_append_bytes_count", {}),
    ("log_append_events_count", {}),
    ("events_total", {"type": "StepCompleted"}),
    ("events_total", {"type": "RunCreated"}),
    ("runs_ended_total", {"state": "completed"}),
    ("run_seconds_count", {"state": "completed"}),
    ("commands_total", {"kind": "submit"}),
    ("commands_total", {"kind": "query"}),
    ("commands_total", {"kind": "result"}),
    ("commands_refused_total", {"kind": "submit"}),
    ("steps_ended_total", {"outcome": "completed"}),
    ("steps_ended_total", {"outcome": "skipped"}),
    ("step_attempts_total", {}),
    ("step_retries_total", {"reason": "error"}),
    ("step_schedule_to_start_seconds_count", {}),
    ("step_seconds_count", {}),
    ("timers_fired_total", {}),
    ("timer_late_seconds_count", {}),
    ("archive_writes_total", {"outcome": "ok"}),
    ("archive_runs_total", {}),
    ("shards_owned", {}),
    ("shard_takeovers_total", {}),
    ("shard_takeover_seconds_count", {}),
    ("controller", {}),
    ("controller_changes_total", {}),
    ("nodes", {"kind": "coordinator", "status": "online"}),
    ("nodes", {"kind": "worker", "status": "online"}),
    ("loop_stall_seconds_count", {}),
    ("bus_connected", {}),
    ("bus_requests_total", {"outcome": "ok"}),
    ("bus_request_seconds_count", {}),
]
MOVED_WORKER = [
    ("worker_slots", {}),
    ("worker_tasks_received_total", {}),
    ("worker_attempts_ended_total", {"outcome": "completed"}),
    ("worker_attempts_ended_total", {"outcome": "failed"}),
    ("worker_attempt_seconds_count", {}),
    ("worker_results_sent_total", {}),
    ("worker_lanes", {}),
    ("worker_log_lines_total", {"stream": "stdout"}),
    ("bus_connected", {}),
    ("bus_requests_total", {"outcome": "ok"}),
]


def scrape(port):
    status, text = http_get(port, "/metrics")
    assert status == 200
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def unmoved(port, wanted):
    samples = scrape(port)
    return [
        (name, labels)
        for name, labels in wanted
        if not any(
            sample.name == f"headrace_{name}"
            and labels.items() <= sample.labels.items()
            and sample.value > 0
            for sample in samples
        )
    ]


async def test_the_important_figures_move(cluster, tmp_path):
    path = tmp_path / "work.yaml"
    path.write_text(WORK)
    for number in range(3):
        ran = await cluster.flowctl("submit", str(path), "--id", f"work-{number}", "--wait")
        assert ran.code == 0, ran.err
    path.write_text(WORK.replace("echo done", "echo other"))
    assert (await cluster.flowctl("submit", str(path), "--id", "work-0")).code == 3

    for role, wanted in (("c0", MOVED_COORDINATOR), ("w0", MOVED_WORKER)):
        left = wanted

        async def all_moved(role=role):
            nonlocal left
            left = unmoved(cluster.ports[role], left)
            return not left

        try:
            await wait_for(all_moved, within_s=10, what="metrics")
        except AssertionError:
            pytest.fail(f"{role}: never moved: {left}")


async def test_live_runs_and_waiting_steps_are_gauges(cluster, tmp_path):
    path = tmp_path / "gpu.yaml"
    path.write_text(WORK.replace("linux", "gpu"))
    run = (await cluster.flowctl("submit", str(path), "-o", "name")).out.strip()

    wanted = ("runs", "lane_ready_steps", "lane_oldest_ready_seconds")

    async def waits():
        found = {}
        for sample in scrape(cluster.ports["c0"]):
            name = sample.name.removeprefix("headrace_")
            if name in wanted:
                found[name] = found.get(name, 0) + sample.value
        return all(found.get(name) for name in wanted)

    assert await wait_for(waits, within_s=10, what="a waiting step")
    assert (await cluster.flowctl("cancel", run)).code == 0
