"""Which workers run what: on all of a group, on what ran before."""

import pytest

from support.cluster import Cluster, running, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
async def cluster(tmp_path):
    async with running(Cluster(tmp_path, workers=2, labels=("linux", "web"))) as made:
        yield made


async def json_of(cluster, *arguments, code=0):
    ran = await cluster.flowctl(*arguments, "-o", "json")
    assert ran.code == code, ran.err
    return ran.json


async def submitted(cluster, file, *arguments):
    ran = await cluster.flowctl("submit", str(file), *arguments, "-o", "name")
    assert ran.code == 0, ran.err
    return ran.out.strip()


async def steps_of(cluster, run):
    return {step["path"]: step for step in (await json_of(cluster, "get", run))["steps"]}


async def test_on_every_worker_of_a_group(cluster, tmp_path):
    """A third worker joins too late; one dies for good, and is skipped; a coordinator dies, too."""
    gate = tmp_path / "gate"
    file = tmp_path / "deploy.yaml"
    file.write_text(
        "name: deploy\njobs:\n  deploy:\n"
        "    runs-on: {group: web, all: true, on-worker-loss: skip}\n"
        "    outputs: {on: '${{ steps.s.outputs.on }}'}\n"
        "    steps:\n      - id: s\n        run: |\n"
        f'          echo "on=${{{{ worker.id }}}}" >> "$GITHUB_OUTPUT"\n'
        f"          until [ -e {gate} ]; do sleep 0.05; done\n"
        "  none:\n    runs-on: {group: db, all: true}\n    steps: [{run: 'true'}]\n"
        "  after:\n    needs: deploy\n    runs-on: linux\n    steps:\n      - id: s\n"
        "        run: echo '${{ join(needs.deploy.outputs.workers) }}:"
        "${{ needs.deploy.outputs.results.w0.on }}' > " + str(tmp_path / "said") + "\n"
    )
    run = await submitted(cluster, file, "--fairness-key", "web", "--fairness-weight", "2")

    async def both_run():
        steps = await steps_of(cluster, run)
        found = [steps.get(f"deploy[{worker}]/s", {}) for worker in ("w0", "w1")]
        return all(step.get("state") == "RUNNING" for step in found) and found

    for step, worker in zip(
        await wait_for(both_run, within_s=20, what="both to run it"), ("w0", "w1"), strict=True
    ):
        assert step["worker"].split(".")[0] == worker
    reasons = (await json_of(cluster, "explain", run))["reasons"]
    assert "no worker offers db (needed: db)" in [reason["reason"] for reason in reasons]
    assert await json_of(cluster, "namespace", "set", "default", "--weight", "3") == {
        "name": "default",
        "weight": 3.0,
    }
    await _sticky(cluster, tmp_path)
    late = cluster.worker("w2")
    cluster.workers.append(late)
    late.start()
    cluster.workers[1].kill()
    (coordinator,) = cluster.coordinators
    coordinator.kill()
    coordinator.start()
    await cluster.ready()
    gate.touch()

    async def skipped():
        steps = await steps_of(cluster, run)
        return steps["deploy[w1]"]["state"] == "SKIPPED" and steps

    steps = await wait_for(skipped, within_s=40, what="w1 to be given up")
    assert steps["deploy[w0]"]["state"] == "COMPLETED"
    assert "deploy[w2]" not in steps
    database = cluster.worker("w3", labels=("db",))
    cluster.workers.append(database)
    database.start()
    ran = await cluster.flowctl("get", run, "--watch")
    assert ran.code == 0, ran.out
    assert (tmp_path / "said").read_text() == "w0,w1:w0\n"
    assert (await json_of(cluster, "namespace", "get", "default"))["weight"] == 3
    history = await cluster.flowctl("history", run)
    assert "deploy[w0]" in history.out


async def _sticky(cluster, tmp_path):
    """Runs of one key, one after the other, go to the worker of the first."""
    file = tmp_path / "sticky.yaml"
    file.write_text(
        "name: sticky\ntasks:\n  - {name: a, type: noop, sticky: cache, runs_on: web}\n"
    )
    workers = {}
    for _ in range(10):
        ran = await cluster.flowctl("submit", str(file), "--wait", "-o", "json")
        assert ran.code == 0, ran.err
        (step,) = ran.json["steps"]
        workers.setdefault(ran.json["shard"], []).append(step["worker"])
    # What was run where is known within a shard.
    for found in workers.values():
        assert len(set(found)) == 1, workers
