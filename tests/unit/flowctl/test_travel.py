"""`get --at`, `history --follow`: what they ask for and print."""

import json

import pytest

from headrace.errors import InvalidRequest
from headrace.flowctl._text import parse_at
from headrace.messages import CancelRun, GetRun, HistoryEntry, StepView, SubmitRun


@pytest.fixture
def ended(flowctl, cluster, workflow):
    """The id of an ended run with four events."""
    cluster.after_submit = lambda run: cluster.finish(run, "COMPLETED", events=4)
    name = flowctl("submit", workflow, "-o", "name").out.strip()
    cluster.history[name] = [
        HistoryEntry(number=n, time_ms=n, type="StepCompleted", path="a", data={"n": n})
        for n in (1, 2, 3, 4)
    ]
    return name


def test_at_is_an_event_or_a_time():
    assert parse_at("12", 1_000_000) == (12, 0)
    assert parse_at("-10m", 1_000_000) == (None, 400_000)
    assert parse_at("10m", 1_000_000) == (None, 400_000)
    assert parse_at("1970-01-01T00:00:07Z", 1_000_000) == (None, 7_000)
    with pytest.raises(InvalidRequest, match="neither an event nor a time: 'soon'"):
        parse_at("soon", 1_000_000)
    with pytest.raises(InvalidRequest, match="has not come yet"):
        parse_at("1970-01-01T01:00:00Z", 1_000_000)


def test_get_at_asks_for_the_past_and_says_so(flowctl, cluster, ended):
    assert flowctl("get", ended, "--at", "2", "-o", "name").out == f"{ended}\n"
    assert cluster.sent(GetRun)[-1].at_event == 2
    assert flowctl("get", ended, "--at", "-10m").code == 0
    asked = cluster.sent(GetRun)[-1]
    assert asked.at_event is None
    assert asked.at_ms > 0
    for runs in cluster.runs.values():
        for run in runs.values():
            run.as_of_ms = 1_000
    assert "event 4, 1970-01-01T00:00:01.000Z" in flowctl("get", ended, "--at", "4").out
    shown = json.loads(flowctl("get", ended, "--at", "4", "-o", "json").out)
    assert (shown["events"], shown["as_of"]) == (4, "1970-01-01T00:00:01.000Z")
    assert flowctl("get", ended, "--at", "4", "--watch").code == 3
    wrong = flowctl("get", ended, "--at", "soon")
    assert (wrong.code, "neither an event nor a time" in wrong.err) == (3, True)


def test_history_since_and_follow(flowctl, cluster, ended):
    shown = json.loads(flowctl("history", ended, "--since", "3", "-o", "json").out)
    assert [entry["number"] for entry in shown] == [3, 4]
    lines = flowctl("history", ended, "-f", "-o", "json").out.splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3, 4]
    assert flowctl("history", ended, "--follow", "--since", "4", "-o", "name").out == "4\n"
    table = flowctl("history", ended, "--follow").out.splitlines()
    assert table[0].split() == ["NUMBER", "TIME", "TYPE", "PATH", "DATA"]
    assert table[0].index("TYPE") == table[1].index("StepCompleted")
    assert flowctl("history", ended, "--follow", "-o", "yaml").code == 3


def test_rerun_from_and_reset_start_runs_that_link_back(flowctl, cluster, workflow):
    steps = [StepView(path=path, state="COMPLETED", needs=["a"] * (path == "b")) for path in "ab"]
    cluster.after_submit = lambda run: cluster.finish(run, "COMPLETED", steps=steps)
    name = flowctl("submit", workflow, "-o", "name").out.strip()
    ran = flowctl("rerun", name, "--from", "b", "-o", "json")
    assert json.loads(ran.out)["rerun_of"] == name
    assert set(cluster.sent(SubmitRun)[-1].carried) == {"a"}
    assert flowctl("rerun", name, "--from", "b", "--failed").code == 3
    assert "the run has no step c" in flowctl("rerun", name, "--from", "c").err
    ran = flowctl("reset", name, "--to", "2", "-o", "json")
    assert json.loads(ran.out)["rerun_of"] == name
    assert 2 in [request.at_event for request in cluster.sent(GetRun)]
    cluster.after_submit = lambda run: None
    live = flowctl("submit", workflow, "-o", "name").out.strip()
    assert "has not ended" in flowctl("reset", live, "--to", "1").err
    assert not cluster.sent(CancelRun)
    assert flowctl("reset", live, "--to", "1", "--cancel").code == 0
    assert [request.run for request in cluster.sent(CancelRun)] == [live]
