"""An owner dies while steps run: its successor learns who holds them, and none begins twice."""

import pytest

from support.chaos import APP, compiled
from support.cluster import Cluster, kept, until, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

MADE = {"coordinators": 3, "workers": 1, "shards": 3, "slots": 16, "apps": [APP]}
RUNS = 6
"""Enough for the victim to own the shard of one of them."""
HELD = """\
name: held
inputs:
  journal: {type: string, required: true}
  gate: {type: string, required: true}
tasks:
  - name: only
    type: chaos/note
    config: {journal: "${{ inputs.journal }}", gate: "${{ inputs.gate }}"}
"""


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    with kept(lambda: Cluster(tmp_path_factory.mktemp("takeover"), **MADE)) as made:
        yield made


async def test_a_successor_knows_who_holds_what_and_begins_nothing_again(cluster, tmp_path):
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    values, plan = {"journal": str(journal), "gate": str(gate)}, compiled(HELD)

    def begun():
        return journal.read_text().count("\n") if journal.exists() else 0

    async with await cluster.client(timeout_s=20.0) as client:
        old = [(await client.submit(plan, values)).id for _ in range(RUNS)]
        await until(lambda: begun() == RUNS, within_s=20, what="the steps")
        before = {shard.shard: shard for shard in (await cluster.ready()).shards}
        shards = {run: (await client.get(run)).shard for run in old}
        victim = cluster.programs[before[shards[old[0]]].owner]
        # Acknowledged a moment before: sent by the dead maybe, and in nobody's heartbeat yet.
        late = [(await client.submit(plan, values)).id for _ in range(RUNS)]
        victim.kill()
        after = await cluster.info_when(
            lambda info: all(s.owner not in ("", victim.name) and s.epoch for s in info.shards),
            within_s=20,
            what="others to own its shards",
        )
        taken = {s.shard for s in after.shards if s.epoch > before[s.shard].epoch}
        assert shards[old[0]] in taken
        # Short of a lease: nobody has been taken for lost before the holder is named.
        for run in (*old, *late):
            await wait_for(lambda run=run: held_by(client, run), within_s=5, what=f"who has {run}")
        for run in old:
            explained = await cluster.flowctl("explain", run)
            assert "worker w0" in explained.out, explained
        assert begun() == 2 * RUNS
        gate.touch()
        for run in (*old, *late):
            done = await client.wait(run, 20)
            assert done.state == "COMPLETED"
        # What the dead had sent to nobody is given out once more, and what is held never is.
        assert {step.attempt for run in old for step in (await client.get(run)).steps} == {1}
    keys = [line.split()[0] for line in journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 2 * RUNS


async def held_by(client, run):
    """Return the worker that has the run's step, as its shard's owner says; "": nobody yet."""
    (step,) = (await client.get(run)).steps
    return step.worker
