"""Schedules on a real server, whose clock is the machine's."""

import json
import time

import pytest

from support.cluster import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def test_a_schedule_begins_runs_by_itself(user, ticking):
    """Last in this folder: by now the minute has passed that it takes at most."""

    async def ran():
        runs = await user.json("list", "--label", "headrace/schedule=tick", "--state", "completed")
        return runs["runs"] if isinstance(runs, dict) else runs

    (run, *_) = await wait_for(ran, within_s=100, what="a run of the schedule")
    assert run["id"].startswith("tick-")
    nominal = time.strptime(run["labels"]["headrace/scheduled-for"], "%Y-%m-%dT%H:%M:%SZ")
    assert nominal.tm_sec == 0
    shown = await user.json("schedule", "get", "tick")
    assert len(shown["next"]) == 5
    assert shown["problem"] is None
    paused = await user.json("schedule", "pause", "tick")
    assert paused["paused"]
    # What the schedule began already is not begun again.
    when = run["labels"]["headrace/scheduled-for"]
    again = await user.json("schedule", "backfill", "tick", "--from", when, "--to", when)
    assert again == [{"id": run["id"], "state": "COMPLETED"}]
    await user("schedule", "delete", "tick")


async def test_past_times_and_a_registered_file(user):
    path = user.shell("echo ran", name="report")
    with open(path, "a") as file:
        file.write("on:\n  schedule:\n    - cron: '30 2 * * *'\n      timezone: Europe/Berlin\n")
    await user("register", path)

    async def there():
        listed = await user.json("schedule", "list")
        return [view for view in listed if view["definition"] == "report"]

    found = await wait_for(there, within_s=15, what="the definition's schedule")
    assert [view["name"] for view in found] == ["report.1"]
    span = ("--from", "2026-03-28", "--to", "2026-03-29T12:00:00Z")
    runs = await user.json("schedule", "backfill", "report.1", *span)
    assert [run["id"] for run in runs] == [
        "report-20260328T013000Z-1",
        "report-20260329T010000Z-1",
    ]
    for run in runs:
        await user.end(run["id"])
    triggered = json.loads((await user("schedule", "trigger", "report.1", "-o", "json")).out)
    await user.end(triggered["id"])
    await user("definitions", "delete", "report")

    async def gone():
        listed = await user.json("schedule", "list")
        return not [view for view in listed if view["definition"] == "report"]

    await wait_for(gone, within_s=15, what="the schedule to be gone")
