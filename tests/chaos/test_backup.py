"""A backup of a busy cluster, and an empty one that goes on from it: real processes."""

import contextlib

import pytest

from headrace.errors import NotFound
from support.chaos import APP, Load, compiled
from support.cluster import Cluster, running, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

RUNS = 200

WORKFLOWS = {
    "approval": """\
name: approval
tasks:
  - name: ask
    type: wait
    config: {signal: go}
  - name: after
    depends_on: [ask]
    type: sleep
    config: {duration: 10ms}
""",
    "timer": """\
name: timer
tasks:
  - name: nap
    type: sleep
    config: {duration: 10s}
  - name: after
    depends_on: [nap]
    type: sleep
    config: {duration: 10ms}
""",
    "gated": """\
name: gated
concurrency: {group: one-at-a-time, queue: max}
tasks:
  - name: held
    type: chaos/note
    config: {journal: JOURNAL, gate: GATE}
  - name: after
    depends_on: [held]
    type: chaos/note
    config: {journal: JOURNAL}
""",
    "effect": """\
name: effect
tasks:
  - name: pay
    type: chaos/note
    effect: at-most-once
    config: {journal: JOURNAL, gate: GATE}
""",
    "done": """\
name: done
tasks:
  - name: only
    type: chaos/note
    config: {journal: JOURNAL}
""",
}


class Story:
    """A cluster with runs of all kinds, its journal and its gate."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder
        self.journal, self.gate = folder / "journal", folder / "gate"
        self.journal.touch()

    def plan(self, name):
        text = WORKFLOWS[name].replace("JOURNAL", str(self.journal))
        return compiled(text.replace("GATE", str(self.gate)))

    def lines(self, run):
        return [line for line in self.journal.read_text().splitlines() if f"/{run}/" in line]


async def state_of(client, run):
    return (await client.get(run)).state


async def begin(story):
    """Runs that wait for a timer, a signal, a key and a step; one that has claimed its effect."""
    async with await story.cluster.client() as client:
        for name in ("approval", "timer", "effect", "done"):
            await client.submit(story.plan(name), run_id=name)
        for run in ("first", "second"):
            await client.submit(story.plan("gated"), run_id=run)
        await client.wait("done", 30)

        async def under_way():
            return story.lines("effect") and (story.lines("first") or story.lines("second"))

        await wait_for(under_way, within_s=30, what="steps to be under way")


async def finish(story):
    """What the backup knew goes on to its end."""
    async with await story.cluster.client() as client:
        assert await state_of(client, "done") == "COMPLETED"
        found = await client.wait("effect", 60)
        assert found.state == "FAILED"
        (pay,) = [step for step in found.steps if step.path == "pay"]
        assert pay.state == "UNKNOWN"
        story.gate.touch()
        await client.signal("approval", "go")
        for run in ("approval", "timer", "first", "second"):
            assert (await client.wait(run, 90)).state == "COMPLETED", run


@contextlib.asynccontextmanager
async def cluster_in(folder, **made):
    async with running(Cluster(folder, apps=[APP], **made)) as cluster:
        yield cluster


async def test_an_empty_cluster_goes_on_from_a_backup(tmp_path):
    """From one coordinator with a SQLite archive to two with one in JetStream."""
    file = tmp_path / "cluster.backup"
    made = {"shards": 3, "slots": 32}
    async with cluster_in(tmp_path / "old", **made) as old:
        story = Story(old, tmp_path)
        (tmp_path / "done.yaml").write_text(
            "name: nightly\non: {schedule: [{cron: '* * * * *', timezone: UTC}]}\n"
            "tasks: [{name: only, type: sleep, config: {duration: 10ms}}]\n"
        )
        ran = await old.flowctl("register", str(tmp_path / "done.yaml"))
        assert ran.code == 0, ran.err
        await begin(story)
        load = Load(old, runs=RUNS, seconds=0.3)
        load.start()
        await load.progressed(0.3)
        before = set(load.acknowledged)
        ran = await old.flowctl("cluster", "backup", str(file), "-o", "json", within_s=60)
        assert ran.code == 0, ran.err
        after = len(load.acknowledged)
        manifest = ran.json
        await load.submitted()
        verdict = await load.verdict()  # the backup has disturbed nobody
        assert verdict.runs == RUNS
        ran = await old.flowctl("cluster", "restore", str(file))
        assert ran.code == 3
        assert "the cluster is not empty" in ran.err
        # … and nothing was changed by the refusal.
        async with await old.client() as client:
            assert await state_of(client, "approval") == "RUNNING"
    assert manifest["counts"]["runs"] >= 1
    assert list(tmp_path.glob(".*.partial")) == []

    async with cluster_in(tmp_path / "new", coordinators=2, **made) as new:
        story = Story(new, tmp_path)
        ran = await new.flowctl("cluster", "inspect", str(file), "-o", "json")
        assert ran.code == 0, ran.err
        live = sum(shard["runs"] for shard in ran.json["shards"])
        ran = await new.flowctl("cluster", "restore", str(file), "-o", "json", within_s=60)
        assert ran.code == 0, ran.err
        restored = ran.json
        # On a slow machine the timer was through before the backup.
        assert restored["runs"] == live >= 4
        assert restored["lost"] >= 2
        assert restored["schedules"] == 1
        await new.ready()
        epochs = {shard.shard: shard.epoch for shard in (await new.ready()).shards}
        for shard in manifest["shards"]:
            if shard["level"] == "journal":
                assert epochs[shard["shard"]] > shard["position"] + 1_000_000
        await finish(story)
        async with await new.client() as client:
            # Whatever was acknowledged before the backup began is there and ends; of what came
            # after it, only what it has seen.
            known = set()
            for run in load.acknowledged:
                try:
                    assert (await client.wait(run, 60)).state == "COMPLETED"
                except NotFound:
                    continue
                known.add(run)
            assert before <= known
            assert len(known) <= after
        # Its schedule goes on.
        ran = await new.flowctl("schedule", "get", "nightly.1", "-o", "json")
        assert len(ran.json["next"]) == 5
        ran = await new.flowctl("schedule", "trigger", "nightly.1", "-o", "name")
        assert ran.code == 0, ran.err
        async with await new.client() as client:
            assert (await client.wait(ran.out.strip(), 30)).state == "COMPLETED"
        ran = await new.flowctl("cluster", "check")
        assert ran.code == 0, ran.out
