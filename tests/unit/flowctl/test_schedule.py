"""`flowctl schedule` against a system shard that decides for real."""

import json
from pathlib import Path

import pytest

from headrace.messages import SubmitRun


@pytest.fixture
def nightly(flowctl, cluster, workflow):
    return flowctl(
        *("schedule", "create", "nightly", "--workflow", workflow, "--cron", "30 2 * * *"),
        *("--timezone", "Europe/Berlin", "-i", "count=3", "-o", "json"),
    )


def test_a_schedule_shows_its_next_times(flowctl, nightly):
    assert nightly.code == 0, nightly.err
    shown = json.loads(nightly.out)
    assert len(shown["next"]) == 5
    assert {time[14:] for time in shown["next"]} == {"30:00.000Z"}
    assert shown["input"] == {"count": 3, "note": ""}
    assert shown["workflow"] == "hello"
    table = flowctl("schedule", "list").out.splitlines()
    assert table[1].split()[0] == "nightly"
    assert "Europe/Berlin" in flowctl("schedule", "get", "nightly").out


def test_pause_resume_and_delete(flowctl, nightly):
    paused = flowctl("schedule", "pause", "nightly", "--reason", "night", "-o", "json")
    assert json.loads(paused.out)["reason"] == "night"
    assert "paused" in flowctl("schedule", "list").out
    assert "goes on" in flowctl("schedule", "resume", "nightly").err
    assert "deleted" in flowctl("schedule", "delete", "nightly").err
    assert flowctl("schedule", "get", "nightly").code == 4
    assert "no schedules" in flowctl("schedule", "list").err


def test_a_past_time_has_one_run_however_often_it_is_asked_for(flowctl, cluster, nightly):
    span = ("--from", "2026-03-28", "--to", "2026-03-30T12:00:00Z")
    runs = flowctl("schedule", "backfill", "nightly", *span, "-o", "name").out.split()
    assert runs == [
        "nightly-20260328T013000Z",
        # Half past two is skipped that night.
        "nightly-20260329T010000Z",
        "nightly-20260330T003000Z",
    ]
    assert {request.run for request in cluster.sent(SubmitRun)} == set(runs)
    assert all(request.explicit for request in cluster.sent(SubmitRun))
    labels = cluster.sent(SubmitRun)[0].labels
    assert labels["headrace/scheduled-for"] == "2026-03-28T01:30:00Z"


def test_a_run_beside_the_times(flowctl, cluster, nightly):
    ran = json.loads(flowctl("schedule", "trigger", "nightly", "-o", "json").out)
    assert ran["labels"] == {"headrace/schedule": "nightly"}
    assert ran["input"] == {"count": 3, "note": ""}


def test_another_content_must_be_meant(flowctl, nightly, workflow):
    again = ("schedule", "create", "nightly", "--workflow", workflow, "--cron", "0 3 * * *")
    refused = flowctl(*again)
    assert refused.code == 3
    assert "replace" in refused.err
    assert flowctl(*again, "--replace").code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cron", "61 * * * *"), "no cron expression"),
        (("--cron", "0 0 * * *", "--timezone", "Mars"), "unknown time zone"),
        (("--cron", "0 0 * * *", "--jitter", "x"), "x"),
        (("--cron", "0 0 * * *", "-i", "cuont=1"), "unknown input 'cuont'"),
    ],
)
def test_what_cannot_be_is_refused(flowctl, cluster, workflow, options, said):
    ran = flowctl("schedule", "create", "bad", "--workflow", workflow, *options)
    assert ran.code == 3
    assert said in ran.err


def test_a_registered_file_brings_its_schedules(flowctl, cluster, workflow):
    path = Path(workflow)
    more = "on:\n  schedule:\n    - cron: '0 4 * * *'\n      timezone: Asia/Tokyo\n"
    path.write_text(path.read_text().replace("on:\n", more))
    assert flowctl("register", workflow).code == 0
    cluster.system.settle()
    (shown,) = json.loads(flowctl("schedule", "list", "-o", "json").out)
    assert (shown["name"], shown["workflow"]) == ("hello.1", "hello@1")
    assert shown["next"][0].endswith("T19:00:00.000Z")
    refused = flowctl("schedule", "delete", "hello.1")
    assert "belongs to definition hello" in refused.err
