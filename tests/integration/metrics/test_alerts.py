"""Each alert fires when it should, and not when it nearly should: told to promtool as series."""

import json
import subprocess

import pytest
import yaml

from support.prometheus import PROMTOOL, RULES, needs_prometheus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
LANE = 'namespace="default", lane="gpu"'
FAILED = 'headrace_workflow_runs_ended_total{namespace="default", workflow="w", state="failed"}'
DONE = 'headrace_workflow_runs_ended_total{namespace="default", workflow="w", state="completed"}'


def buckets(name, quick, slow):
    """Return a histogram of which so many a minute are quick, and so many slow."""
    return {
        f'{name}_bucket{{le="0.1"}}': f"0+{quick}x40",
        f'{name}_bucket{{le="5"}}': f"0+{quick + slow}x40",
        f'{name}_bucket{{le="+Inf"}}': f"0+{quick + slow}x40",
    }


def of(name, value):
    """Return a gauge that stays at *value*."""
    return {name: f"{value}x40"}


def rises(name, each):
    """Return a counter that rises by so much a minute."""
    return {name: f"0+{each}x40"}


READY, WORKERS = f"headrace_lane_ready_steps{{{LANE}}}", f"headrace_lane_workers{{{LANE}}}"
FREE, OLDEST = (
    f"headrace_lane_free_slots{{{LANE}}}",
    f"headrace_lane_oldest_ready_seconds{{{LANE}}}",
)
ATTEMPTS = "headrace_step_attempts_total"
BLOCKED = 'headrace_runs{state="blocked"}'
UNKNOWN = 'headrace_steps_ended_total{outcome="unknown"}'
FULL, SIZE, MOST = (f'headrace_log_{name}{{shard="0"}}' for name in ("full", "bytes", "max_bytes"))
AGE, TAIL = 'headrace_snapshot_age_seconds{shard="0"}', 'headrace_log_tail_entries{shard="0"}'
FENCED = 'headrace_log_appends_fenced_total{shard="0"}'
NO_ROOM = 'headrace_log_appends_full_total{shard="0"}'
UNANSWERED = 'headrace_log_appends_unknown_total{resolution="absent"}'
NO_SNAPSHOT = 'headrace_snapshots_total{outcome="failed"}'
LAG, APPENDS = 'headrace_standby_lag_seconds{shard="0"}', 'headrace_log_appends_total{shard="0"}'
ERRORS = 'headrace_log_records_total{level="error", instance="a"}'
SILENT, HEARING = "headrace_worker_silence_seconds", "headrace_hearing_lag_seconds"
ALIVE, EXPECTED = "headrace_coordinators_living", "headrace_coordinators_expected"
SKEW, SKEW_MAX = (
    f'headrace_clock_skew_{name}{{instance="a"}}' for name in ("seconds", "max_seconds")
)
LATE, OVERDUE = "headrace_timer_late_seconds", "headrace_timer_overdue_seconds"
REFUSED = 'headrace_results_refused_total{reason="stale_token"}'
ONCE = "0x34 1x6"

CASES = {
    "HeadraceRunsBlocked": (of(BLOCKED, 2), of(BLOCKED, 0)),
    "HeadraceRunsStandStill": (
        of(READY, 5) | of(FREE, 2) | of(ATTEMPTS, 10),
        of(READY, 5) | of(FREE, 2) | rises(ATTEMPTS, 1),
    ),
    "HeadraceRunFailuresFast": (
        rises(FAILED, 20) | rises(DONE, 80),
        rises(FAILED, 10) | rises(DONE, 90),
    ),
    "HeadraceRunFailuresSlow": (
        rises(FAILED, 10) | rises(DONE, 90),
        rises(FAILED, 1) | rises(DONE, 99),
    ),
    "HeadraceStepsUnknown": ({UNKNOWN: ONCE}, of(UNKNOWN, 3)),
    "HeadraceTimersLate": (buckets(LATE, 90, 10), buckets(LATE, 100, 0) | of(OVERDUE, 1)),
    "HeadraceOldestReadyStep": (of(OLDEST, 400) | of(WORKERS, 1), of(OLDEST, 200) | of(WORKERS, 1)),
    "HeadraceNoWorkerForLane": (of(READY, 3) | of(WORKERS, 0), of(READY, 3) | of(WORKERS, 1)),
    "HeadraceWorkersLost": (
        rises("headrace_workers_lost_total", 1),
        of("headrace_workers_lost_total", 5),
    ),
    "HeadraceWorkerSilent": (of(SILENT, 2.5) | of(HEARING, 0), of(SILENT, 2.5) | of(HEARING, 2)),
    "HeadraceLeasesLapse": (
        rises("headrace_leases_lapsed_total", 30),
        rises("headrace_leases_lapsed_total", 1),
    ),
    "HeadraceDispatchRefused": (
        rises("headrace_dispatch_refusals_total", 5),
        of("headrace_dispatch_refusals_total", 5),
    ),
    "HeadraceResultsRefused": (rises(REFUSED, 30), rises(REFUSED, 1)),
    "HeadraceTaskStreamLost": (
        {"headrace_task_stream_losses_total": ONCE},
        of("headrace_task_stream_losses_total", 1),
    ),
    "HeadraceAppendsFenced": (rises(FENCED, 1), of(FENCED, 8)),
    "HeadraceAppendSlow": (
        buckets("headrace_log_append_seconds", 90, 10),
        buckets("headrace_log_append_seconds", 100, 0),
    ),
    "HeadraceAppendsUnknown": (rises(UNANSWERED, 10), rises(UNANSWERED, 1)),
    "HeadraceLogNearlyFull": (
        of(SIZE, 75) | of(MOST, 100),
        of(SIZE, 75) | of(MOST, 0) | of(FULL, 0),
    ),
    "HeadraceLogFull": (of(FULL, 1), of(FULL, 0.5) | of(NO_ROOM, 1)),
    "HeadraceSnapshotTooOld": (of(AGE, 9000) | of(TAIL, 50000), of(AGE, 9000) | of(TAIL, 3)),
    "HeadraceSnapshotsFail": (rises(NO_SNAPSHOT, 1), of(NO_SNAPSHOT, 4)),
    "HeadraceWeakFsync": (of("headrace_log_synced", 0), of("headrace_log_synced", 1)),
    "HeadraceArchiveLag": (
        of("headrace_archive_lag_seconds", 300),
        of("headrace_archive_lag_seconds", 3),
    ),
    "HeadraceNoController": (
        of('headrace_controller{instance="a"}', 0),
        of('headrace_controller{instance="a"}', 0) | of('headrace_controller{instance="b"}', 1),
    ),
    "HeadraceControllerFlaps": (
        rises("headrace_controller_changes_total", 1),
        {"headrace_controller_changes_total": ONCE},
    ),
    "HeadraceCoordinatorMissing": (of(ALIVE, 2) | of(EXPECTED, 3), of(ALIVE, 3) | of(EXPECTED, 3)),
    "HeadraceShardUnowned": (
        of("headrace_shards_expected", 3) | of("headrace_shards_owned", 2),
        of("headrace_shards_expected", 3) | of("headrace_shards_owned", 3),
    ),
    "HeadraceShardTroubled": (
        of("headrace_shards_troubled", 1),
        of("headrace_shards_troubled", 0),
    ),
    "HeadraceClockSkew": (of(SKEW, -3) | of(SKEW_MAX, 5), of(SKEW, -2) | of(SKEW_MAX, 5)),
    "HeadraceStandbyLags": (of(LAG, 60) | rises(APPENDS, 120), of(LAG, 60) | of(APPENDS, 120)),
    "HeadraceInboxBusy": (
        rises("headrace_inbox_busy_total", 1),
        of("headrace_inbox_busy_total", 9),
    ),
    "HeadraceLoopStalls": (
        buckets("headrace_loop_stall_seconds", 90, 10),
        buckets("headrace_loop_stall_seconds", 100, 0),
    ),
    "HeadraceDisconnected": (
        of('headrace_bus_connected{instance="a"}', 0),
        of('headrace_bus_connected{instance="a"}', 1),
    ),
    "HeadraceReconnects": (
        rises('headrace_bus_reconnects_total{instance="a"}', 1),
        {'headrace_bus_reconnects_total{instance="a"}': ONCE},
    ),
    "HeadraceErrorsLogged": (rises(ERRORS, 2), of(ERRORS, 50)),
    "HeadraceLogLinesDropped": (
        rises("headrace_worker_log_lines_dropped_total", 5),
        of("headrace_worker_log_lines_dropped_total", 5),
    ),
    "HeadracePluginBroken": (
        of("headrace_worker_plugin_problems", 1),
        of("headrace_worker_plugin_problems", 0),
    ),
    "HeadraceProcessDown": (
        of('up{job="headrace-worker"}', 0),
        of('up{job="headrace-worker"}', 1) | of('up{job="other"}', 0),
    ),
}
"""Alert -> series that make it fire, and series that nearly do."""
LOOK = "36m"


def together(cases):
    """Put (alert, series) into as few groups as can be, so that none shares a metric with another.

    promtool evaluates all rules for each group: one for each alert would take half a minute.
    """
    groups = []
    for alert, series in cases:
        names = {name.partition("{")[0].removesuffix("_bucket") for name in series}
        for group in groups:
            if not names & group["names"]:
                break
        else:
            groups.append(group := {"names": set(), "alerts": [], "series": {}})
        group["names"] |= names
        group["alerts"].append(alert)
        group["series"] |= series
    return groups


def case(group, firing):
    expected = [{"labels": "{}", "value": 1}] if firing else []
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in group["series"].items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": LOOK,
                "exp_samples": expected,
            }
            for alert in group["alerts"]
        ],
    }


def test_every_alert_has_a_case():
    assert set(CASES) == set(ALERTS)


@needs_prometheus
def test_alerts_fire_when_they_should_and_else_not(tmp_path):
    tests = [
        case(group, firing)
        for place, firing in ((0, True), (1, False))
        for group in together((alert, both[place]) for alert, both in CASES.items())
    ]
    # JSON is YAML.
    (tmp_path / "tests.yaml").write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests})
    )
    ran = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(tmp_path / "tests.yaml")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_prometheus
def test_the_rules_are_valid():
    ran = subprocess.run(
        [str(PROMTOOL), "check", "rules", str(RULES)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
