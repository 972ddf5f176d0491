"""Dashboards and alerts ask for what there is: of a Prometheus that scrapes a cluster at work."""

import asyncio
import contextlib
import importlib.util
import json
import re
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client import CollectorRegistry

from headrace.telemetry import (
    BusMetrics,
    CoordinatorMetrics,
    ProcessMetrics,
    WorkerMetrics,
    families,
)
from support.broker import in_thread
from support.chaos import compiled
from support.cluster import Cluster, shared
from support.prometheus import ROOT, RULES, Prometheus, needs_prometheus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FOLDER = ROOT / "deploy" / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"]]
VARIABLES = {
    "$__rate_interval": "15s",
    "$__range": "1m",
    '"$cluster"': '".*"',
    '"$namespace"': '".*"',
    '"$workflow"': '".*"',
}
OF_OTHERS = {
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "up"),
    "headrace_build_info",
}
WORK = "name: work\njobs: {a: {runs-on: linux, steps: [{run: echo a}, {run: echo b}]}}"
FAILS = """\
name: fails
jobs: {a: {runs-on: linux, steps: [{run: exit 3, retry: {max-attempts: 2, initial: 10ms}}]}}
"""
WAITS = "name: gpu\njobs: {a: {runs-on: gpu, steps: [{run: echo never}]}}"
NEVER_SO_SOON = {
    # Whatever these show has not happened to a cluster that is well.
    *("Messages of the election refused", "Replicas replaced", "Results refused"),
    *("States read again from the log",),
    *("Steps received, not run", "Age of the newest snapshot"),
}


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] not in ("row", "text")]


def queries(board):
    return [
        (panel["title"], target["expr"]) for panel in panels(board) for target in panel["targets"]
    ]


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def names(query):
    """Return the metrics that a query is made of."""
    plain = re.sub(r'"[^"]*"', "", query)
    plain = re.sub(r"\b(?:by|on|ignoring) \([^)]*\)", "", plain)
    plain = re.sub(r"\{[^}]*\}", "", plain)
    return {
        word
        for word in re.findall(r"[a-z][a-z_]+(?![a-z_]*\()", plain)
        if word.startswith(("headrace_", "process_")) or word == "up"
    }


@pytest.fixture(scope="module")
def known():
    """All names of samples that processes have, with their types."""
    found = set(OF_OTHERS)
    for kind in (CoordinatorMetrics, WorkerMetrics, BusMetrics, ProcessMetrics):
        for family in families(kind(CollectorRegistry())).values():
            suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
            found |= {family.name + suffix for suffix in suffixes}
    return found


# -- without a Prometheus ----------------------------------------------------------------------


def test_the_files_are_what_the_generator_makes():
    path = FOLDER / "generate.py"
    spec = importlib.util.spec_from_file_location("dashboards", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Mend with: python deploy/dashboards/generate.py
    assert module.pages() == {f"{k}.json": (FOLDER / f"{k}.json").read_text() for k in BOARDS}


@pytest.mark.parametrize("name", BOARDS)
def test_panels_ask_for_metrics_that_exist(name, known):
    for title, query in queries(BOARDS[name]):
        assert names(query), (title, query)
        assert names(query) <= known, (title, names(query) - known)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_has_a_runbook(rule, known):
    assert names(rule["expr"]) <= known
    assert rule["labels"]["severity"] in ("warning", "critical")
    page = ROOT / rule["annotations"]["runbook_url"]
    assert f"`{rule['alert']}`" in page.read_text(), "the runbook names the alert"


def test_dashboards_have_what_grafana_needs():
    uids = [board["uid"] for board in BOARDS.values()]
    assert len(set(uids)) == len(uids) >= 5
    for board in BOARDS.values():
        variables = {variable["name"] for variable in board["templating"]["list"]}
        assert {"datasource", "cluster", "namespace"} <= variables
        places = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert at["x"] + at["w"] <= 24
            assert not cells & places, f"{panel['title']} lies over another"
            places |= cells


# -- with one ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Three coordinators, two workers, and a Prometheus that has watched them work."""
    made = Cluster(tmp_path_factory.mktemp("watched"), coordinators=3, workers=2, shards=3)
    with shared(made) as cluster:
        roles = {"coordinator": "c", "worker": "w"}
        prometheus = Prometheus(
            tmp_path_factory.mktemp("prometheus"),
            {
                role: [port for name, port in cluster.ports.items() if name.startswith(letter)]
                for role, letter in roles.items()
            },
        )
        with contextlib.closing(prometheus):
            prometheus.start()
            in_thread(work(cluster, prometheus))
            yield SimpleNamespace(cluster=cluster, prometheus=prometheus)


async def work(cluster, prometheus):
    """Work until Prometheus has seen counters of both roles rise."""
    seen = (
        'sum(rate(headrace_workflow_runs_ended_total{state="failed"}[15s])) > 0 '
        "and sum(rate(headrace_worker_attempts_ended_total[15s])) > 0"
    )
    async with await cluster.client() as client:
        await client.submit(compiled(WAITS))
        for _ in range(40):
            for text in (WORK, FAILS):
                run = await client.submit(compiled(text))
                await client.wait(run.id, 20)
            await asyncio.sleep(0.4)
            if await asyncio.to_thread(prometheus.query, seen):
                return
    raise AssertionError(prometheus.said())


@needs_prometheus
def test_all_processes_are_scraped(watched):
    up = {
        (sample["metric"]["job"], sample["value"][1]) for sample in watched.prometheus.query("up")
    }
    assert up == {("headrace-coordinator", "1"), ("headrace-worker", "1")}
    assert len(watched.prometheus.query("up")) == 5


@needs_prometheus
@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_shows_something(watched, name):
    shown = {}
    for title, query in queries(BOARDS[name]):
        found = watched.prometheus.query(filled(query))
        shown[title] = shown.get(title) or bool(found)
    empty = {title for title, something in shown.items() if not something}
    assert empty <= NEVER_SO_SOON


@needs_prometheus
@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_s_expression_can_be_asked(watched, rule):
    found = watched.prometheus.query(rule["expr"])
    firing_here = {"HeadraceNoWorkerForLane", "HeadraceWeakFsync"}
    firing_here |= {"HeadraceRunFailuresFast", "HeadraceRunFailuresSlow"}
    assert not found or rule["alert"] in firing_here, found


@needs_prometheus
def test_the_rules_are_loaded(watched):
    groups = watched.prometheus.api("rules")["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    assert len(loaded) == len(ALERTS)
    assert {rule["health"] for rule in loaded} <= {"ok", "unknown"}
