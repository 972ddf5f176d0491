"""Workers, coordinators and the cluster as a whole: drain, status, check, readiness."""

import asyncio

import pytest

from support.cluster import EXAMPLES, Cluster, http_get, kept, running, until, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    with kept(lambda: Cluster(tmp_path_factory.mktemp("fleet"), workers=2)) as made:
        yield made


@pytest.fixture
async def cluster(clusters, request):
    async with clusters.whole(request.session) as whole:
        yield whole


async def json_of(cluster, *arguments, code=0):
    ran = await cluster.flowctl(*arguments, "-o", "json")
    assert ran.code == code, ran.err
    return ran.json


async def states(cluster):
    return {worker["id"]: worker["state"] for worker in await json_of(cluster, "workers")}


async def holder_of(cluster, run):
    """Return the worker that runs main/step, once one says so."""

    async def look():
        view = await json_of(cluster, "get", run)
        step = next(step for step in view["steps"] if step["path"] == "main/step")
        return step["state"] == "RUNNING" and step["worker"].split(".")[0]

    return await wait_for(look, within_s=15, what="somebody to run the step")


def slow(cluster, tmp_path, name="slow"):
    file = tmp_path / f"{name}.yaml"
    file.write_text(
        f"name: {name}\njobs:\n  main:\n    runs-on: linux\n    steps:\n"
        f"      - id: step\n        run: |\n          echo $HEADRACE_ATTEMPT >> {tmp_path}/ran\n"
        f"          until [ -e {tmp_path}/gate ]; do sleep 0.05; done\n"
    )
    return str(file)


async def test_workers_lists_what_they_offer(cluster):
    found = await json_of(cluster, "workers")
    assert [worker["id"] for worker in found] == ["w0", "w1"]
    for worker in found:
        assert worker["capabilities"] == ["default", "linux"]
        assert (worker["slots"], worker["free"]) == (16, 16)
        assert worker["state"] == "Online"
    assert (await cluster.flowctl("workers", "-o", "name")).out == "w0\nw1\n"


async def test_drain_of_an_idle_worker_exits_0(cluster):
    ran = await cluster.flowctl("drain", "w0")
    assert ran.code == 0, ran.err
    assert await cluster.workers[0].ended(within_s=10) == 0

    async def gone():
        return (await states(cluster)).get("w0") in (None, "Offline")

    await wait_for(gone, within_s=10, what="w0 to leave the list")
    done = await cluster.flowctl("submit", str(EXAMPLES / "hello.yaml"), "--wait")
    assert done.code == 0, done.err


async def test_drain_lets_the_running_step_finish(cluster, tmp_path):
    run = (await cluster.flowctl("submit", slow(cluster, tmp_path), "-o", "name")).out.strip()
    holder = await holder_of(cluster, run)
    program = cluster.programs[holder]
    assert (await cluster.flowctl("drain", holder, "--grace", "60s")).code == 0

    async def draining():
        return (await states(cluster))[holder] == "Draining"

    await wait_for(draining, within_s=10, what="the worker to drain")
    # New work goes to the other one.
    done = await json_of(cluster, "submit", str(EXAMPLES / "hello.yaml"), "--wait")
    assert {s["worker"].split(".")[0] for s in done["steps"] if s["worker"]} == {"w0", "w1"} - {
        holder
    }
    assert program.running
    (tmp_path / "gate").touch()
    assert await program.ended(within_s=15) == 0
    done = (await cluster.flowctl("get", run, "--watch", "-o", "json")).json
    assert done["state"] == "COMPLETED"
    assert (tmp_path / "ran").read_text() == "1\n"


async def test_sigterm_hands_back_what_does_not_finish(cluster, tmp_path):
    """The grace is over: the step is killed and runs again elsewhere."""
    run = (await cluster.flowctl("submit", slow(cluster, tmp_path), "-o", "name")).out.strip()
    holder = await holder_of(cluster, run)
    assert await cluster.programs[holder].stop(within_s=15) == 0
    (tmp_path / "gate").touch()
    done = (await cluster.flowctl("get", run, "--watch", "-o", "json")).json
    assert done["state"] == "COMPLETED", done


async def test_status_and_check(cluster):
    done = await cluster.flowctl("submit", str(EXAMPLES / "hello.yaml"), "--wait")
    assert done.code == 0, done.err
    status = await json_of(cluster, "cluster", "status")
    assert status["controller"] == "c0"
    assert [shard["owner"] for shard in status["shards"]] == ["c0"] * 4
    assert status["broker"]["synced"] is True
    assert status["warnings"] == []
    verdicts = await json_of(cluster, "cluster", "check")
    assert {verdict["verdict"] for verdict in verdicts} == {"no standby"}
    text = (await cluster.flowctl("cluster", "status")).out
    assert "1 coordinator, 4 shards, 2 workers online" in text


async def test_readiness_follows_the_broker(cluster):
    ports = [cluster.ports["c0"], cluster.ports["w0"]]
    for port in ports:
        # One that an earlier test has started anew waits for its lanes' first answers.
        await until(lambda port=port: http_get(port, "/readyz")[0] == 200, within_s=20)
    await cluster.brokers[0].kill()
    for port in ports:
        await until(lambda port=port: http_get(port, "/readyz")[0] == 503, within_s=10)
        assert http_get(port, "/healthz")[0] == 200
    await cluster.brokers[0].start()
    for port in ports:
        await until(lambda port=port: http_get(port, "/readyz")[0] == 200, within_s=20)
    done = await cluster.flowctl("submit", str(EXAMPLES / "hello.yaml"), "--wait")
    assert done.code == 0, done.err


async def test_servers_wait_for_the_broker_and_say_so_once(cluster):
    await cluster.brokers[0].kill()
    late = cluster.worker("late")
    late.start()
    await until(lambda: late.said(), within_s=10, what="the worker to say something")
    said = late.said()
    assert cluster.brokers[0].url.removeprefix("nats://") in said
    assert "Traceback" not in said
    await cluster.brokers[0].start()

    async def online():
        return (await states(cluster)).get("late") == "Online"

    await wait_for(online, within_s=30, what="the late worker")


async def test_capability_that_comes_later(cluster, tmp_path):
    file = tmp_path / "gpu.yaml"
    file.write_text(
        "name: gpu\njobs:\n  a:\n    runs-on: [linux, gpu]\n    steps: [{id: s, run: echo hi}]\n"
    )
    run = (await cluster.flowctl("submit", str(file), "-o", "name")).out.strip()

    async def missing():
        reasons = (await json_of(cluster, "explain", run))["reasons"]
        return any("no worker offers gpu" in reason["reason"] for reason in reasons)

    await wait_for(missing, within_s=10)
    cluster.worker("g0", labels=("linux", "gpu")).start()
    done = (await cluster.flowctl("get", run, "--watch", "-o", "json")).json
    assert done["state"] == "COMPLETED"
    assert done["steps"][-1]["worker"].startswith("g0.")


async def test_weak_broker_is_named_loudly(tmp_path):
    made = Cluster(tmp_path, workers=1)
    made.brokers[0].sync_always = False
    async with running(made):
        assert "weaker than level journal" in made.coordinators[0].said()
        ran = await made.flowctl("cluster", "status", "-o", "json")
        assert any("power loss" in warning for warning in ran.json["warnings"])
        assert "warning:" in ran.err


async def test_three_coordinators_have_equal_standbys(tmp_path):
    async with running(Cluster(tmp_path, coordinators=3, workers=1, shards=3)) as made:
        runs = await asyncio.gather(
            *(made.flowctl("submit", str(EXAMPLES / "hello.yaml"), "--wait") for _ in range(6))
        )
        assert {run.code for run in runs} == {0}
        status = await json_of(made, "cluster", "status")
        assert len(status["coordinators"]) == 3
        journal = [shard for shard in status["shards"] if shard["level"] == "journal"]
        assert {shard["owner"] for shard in journal} == {"c0", "c1", "c2"}
        assert all(shard["standby"] not in ("", shard["owner"]) for shard in journal)
        verdicts = await json_of(made, "cluster", "check")
        found = {verdict["shard"]: verdict["verdict"] for verdict in verdicts}
        assert [found[shard["shard"]] for shard in journal] == ["equal"] * 3
