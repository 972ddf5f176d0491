"""Locks, rate limits and cached results on real servers with two shards, whose owner is killed: one
holder at a time, tokens that grow, no start too early, results of other runs."""

import asyncio
import sys
from itertools import pairwise

import pytest

from support.cluster import Cluster, running, until, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

RUNS = 6
LIMIT, PER_MS = 2, 3_000
FLOWCTL = f"{sys.executable} -c 'from headrace.flowctl import main; main()'"
FLOW = f"""
name: gated
jobs:
  it:
    steps:
      - id: deps
        cache: {{key: deps-v1, ttl: 1h}}
        run: echo "of=$HEADRACE_RUN_ID" >> "$GITHUB_OUTPUT"
      - id: write
        lock: {{name: store, ttl: 1m, timeout: 2m}}
        run: |
          # Who is not alone fails.
          mkdir FOLDER/inside
          echo "$HEADRACE_LOCK_TOKEN" >> FOLDER/tokens
          rmdir FOLDER/inside
      - id: call
        rate-limit: {{key: api, limit: {LIMIT}, per: {PER_MS}ms}}
        run: echo called
"""
NESTED = f"""
name: nested
jobs:
  it:
    steps:
      - run: {FLOWCTL} lock run inner --ttl 5s -- sh -c 'test "$HEADRACE_LOCK" = inner'
"""


@pytest.fixture
async def cluster(tmp_path):
    async with running(Cluster(tmp_path)) as made:
        yield made


async def test_locks_rates_and_cached_results(cluster, tmp_path):
    (coordinator,) = cluster.coordinators

    async def flowctl(*arguments, code=0):
        ran = await cluster.flowctl(*arguments, within_s=60)
        assert ran.code == code, ran.err
        return ran

    async def view(run):
        return (await flowctl("get", run, "-o", "json")).json

    async def ended(run):
        found = await view(run)
        return found if found["state"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    async def starts():
        """When the steps under the rate limit began."""
        found = []
        for number in range(RUNS):
            for entry in (await flowctl("history", f"r{number}", "-o", "json")).json:
                if entry["type"] == "StepScheduled" and entry["path"] == "it/call":
                    found.append(entry["time"])
        return sorted(found)

    # A person holds the lock, with a command that outlives the coordinator.
    go = tmp_path / "go"
    script = f"touch {tmp_path}/begun; while [ ! -e {go} ]; do sleep 0.05; done; exit 7"
    person = await cluster.spawn(
        *("lock", "run", "store", "--ttl", "20s", "--owner", "ada", "--", "sh", "-c", script)
    )
    await until((tmp_path / "begun").exists, within_s=30, what="the lock")
    held = (await flowctl("lock", "get", "store", "-o", "json")).json
    assert held["owner"] == "ada"
    file = tmp_path / "gated.yaml"
    file.write_text(FLOW.replace("FOLDER", str(tmp_path)))
    for number in range(RUNS):
        # Of two shards each has some of these, and one of them has the lock.
        await flowctl("submit", str(file), "--id", f"r{number}")

    async def told():
        """Whether `explain` names the holder, from wherever the run lives."""
        said = [(await flowctl("explain", f"r{n}")).out for n in range(RUNS)]
        return all("waits for lock store, held by ada" in text for text in said)

    await wait_for(told, within_s=60, what="all runs to wait for the lock")
    coordinator.kill()
    coordinator.start()
    refused = await flowctl("lock", "acquire", "store", "--owner", "bob", code=3)
    assert "held by ada" in refused.err
    go.touch()
    assert await asyncio.wait_for(person.wait(), 30) == 7

    async def limited():
        return len(await starts()) >= LIMIT

    await wait_for(limited, within_s=60, what="the rate limit to be used up")
    coordinator.kill()
    coordinator.start()
    for number in range(RUNS):
        found = await wait_for(lambda n=number: ended(f"r{n}"), within_s=90, what="the end")
        assert found["state"] == "COMPLETED", found["reason"]
    tokens = [int(line) for line in (tmp_path / "tokens").read_text().split()]
    assert len(tokens) == RUNS
    assert all(one < other for one, other in pairwise([held["token"], *tokens]))
    times = [_ms(time) for time in await starts()]
    assert len(times) == RUNS
    for one, other in zip(times, times[LIMIT:], strict=False):
        assert other - one >= PER_MS, times

    # What one of them has found out is known now.
    (kept,) = (await flowctl("cache", "list", "deps-v1", "-o", "json")).json
    await flowctl("submit", str(file), "--id", "later", "--wait")
    (step,) = [s for s in (await view("later"))["steps"] if s["path"] == "it/deps"]
    assert step["outputs"]["of"] == kept["run"]
    assert step["reason"] == f"cached: the result of it/deps in run {kept['run']}"
    assert "1 results forgotten" in (await flowctl("cache", "clear", "deps-v1")).err

    nested = tmp_path / "nested.yaml"
    nested.write_text(NESTED)
    await flowctl("submit", str(nested), "--wait")
    assert "no locks" in (await flowctl("lock", "list")).err


def _ms(text):
    """Return the milliseconds of a time of one day."""
    hours, minutes, seconds = text.rstrip("Z").partition("T")[2].split(":")
    return round((int(hours) * 3_600 + int(minutes) * 60 + float(seconds)) * 1_000)
