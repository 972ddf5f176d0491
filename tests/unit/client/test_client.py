"""The client against a cluster that loses requests and replies."""

import asyncio

import msgspec
import pytest

from headrace.bus import NoResponders
from headrace.client import Client, Submission, _calls, _follow, _submit
from headrace.errors import (
    Busy,
    Conflict,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Unavailable,
    Unreachable,
)
from headrace.messages import (
    CancelRun,
    ClientBatch,
    DrainWorker,
    GetInfo,
    GetRun,
    HistoryEntry,
    LogLine,
    LogLines,
    RunView,
    StepView,
    StorePlan,
    SubmitRun,
    decode,
    encode,
    subjects,
)
from headrace.plan import Group, InputSpec, Plan, Task
from support.fake_server import ARCHIVE, BUSY, LOST_REPLY, LOST_REQUEST, FakeCluster, FakeTransport

PLAN = Plan(
    name="hello", nodes=(Group(name="hello", size=2), Task(name="a", uses="noop", parent=0))
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(_calls, "PAUSE_S_MAX", 0.01)
    monkeypatch.setattr(_calls, "PAUSE_S_MIN", 0.001)
    monkeypatch.setattr(_submit, "PAUSE_S_MIN", 0.001)
    monkeypatch.setattr(_follow, "REFRESH_S_MIN", 0.001)


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
async def client(cluster):
    async with Client(FakeTransport(cluster), namespace="default", timeout_s=0.2) as client:
        await client.learn()
        yield client


async def test_a_run_is_started_in_the_shard_of_its_slot(client, cluster):
    run = await client.submit(PLAN, {"x": 1}, labels={"a": "b"}, priority=3)
    slot = subjects.slot_of(f"default/{run.id}")
    assert run.shard == (1 if slot < 2048 else 2)
    assert cluster.runs[run.shard][run.id] is run or cluster.runs[run.shard][run.id] == run
    assert (run.input, run.labels, run.priority) == ({"x": 1}, {"a": "b"}, 3)
    assert not cluster.sent(SubmitRun)[0].explicit


async def test_an_unknown_plan_is_stored_and_the_same_submit_sent_again(client, cluster):
    await client.submit(PLAN, run_id="one")
    first, second = cluster.sent(SubmitRun)
    assert first == second
    assert first.explicit
    assert len(cluster.sent(StorePlan)) == 1
    await client.submit(PLAN, run_id="two")
    assert len(cluster.sent(StorePlan)) <= 2


async def test_a_cluster_that_drops_a_part_of_the_plan_is_named(client, cluster, monkeypatch):
    monkeypatch.setattr("support.fake_server.plan_digest", lambda plan: "another")
    with pytest.raises(Unavailable, match=r"release 0\.0\.test"):
        await client.submit(PLAN)


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_REPLY, BUSY])
async def test_a_fault_makes_the_client_send_the_same_request_again(client, cluster, fault):
    await client.submit(PLAN, run_id="warm")
    cluster.faults.extend([fault, fault])
    run = await client.submit(PLAN, run_id="warm2")
    assert run.id == "warm2"
    assert sum("warm2" in runs for runs in cluster.runs.values()) == 1
    ids = {request.request_id for request in cluster.sent(SubmitRun) if request.run == "warm2"}
    assert len(ids) == 1


async def test_when_time_is_over_the_error_names_the_address(client, cluster, monkeypatch):
    monkeypatch.setattr(_submit, "MUTATION_S", 0.05)
    cluster.faults.extend([LOST_REQUEST] * 1_000)
    with pytest.raises(Unreachable, match="fake://cluster"):
        await client.submit(PLAN)
    cluster.faults = type(cluster.faults)([BUSY] * 1_000)
    with pytest.raises(Busy):
        await client.submit(PLAN)
    cluster.faults.clear()


async def test_refusals_are_errors(client, cluster):
    await client.submit(PLAN, run_id="taken")
    with pytest.raises(Conflict):
        await client.submit(PLAN, {"other": 1}, run_id="taken")
    with pytest.raises(InvalidRequest):
        await client.submit(PLAN, run_id="no/slash")
    with pytest.raises(InvalidRequest):
        await client.submit(PLAN, durability="paper")
    with pytest.raises(InvalidRequest):
        Client(FakeTransport(cluster), namespace="a.b")
    cluster.info.payload_max = 1_000
    await client.learn()
    with pytest.raises(LimitExceeded):
        await client.submit(PLAN, {"x": "y" * 2_000})
    cluster.info.level_shards.clear()
    await client.learn()
    with pytest.raises(Unavailable):
        await client.submit(PLAN, durability="memory")


async def test_a_submit_whose_run_has_been_archived_meanwhile_gives_that_run(client, cluster):
    run = await client.submit(PLAN, run_id="quick")
    cluster.finish(run)
    cluster.archive(cluster.runs[run.shard]["quick"])
    cluster.runs[ARCHIVE]["quick"].state = "COMPLETED"
    assert (await client.submit(PLAN, run_id="quick")).archived
    (again,) = await client.submit_many([Submission(plan=PLAN, run_id="quick")])
    assert isinstance(again, RunView)
    assert again.archived


async def test_the_digest_is_that_of_the_decoded_plan(client, cluster):
    kind = "".join(["str", "ing"])  # equal to the default, and not the same object
    plan = msgspec.structs.replace(PLAN, inputs={"x": InputSpec(type=kind)})
    assert (await client.submit(plan)).workflow == "hello"


async def test_a_request_that_comes_too_late_points_at_the_clock(client, cluster):
    cluster.refuse_submits = ("too-late", "the request came after its not-after time")
    with pytest.raises(Unavailable, match="clocks"):
        await client.submit(PLAN)


async def test_many_runs_are_sent_in_arrays_and_survive_faults(client, cluster):
    cluster.faults.extend(["", LOST_REPLY, "", LOST_REQUEST, BUSY, LOST_REPLY])
    wanted = [Submission(plan=PLAN, input={"n": n}, run_id=f"r{n}") for n in range(2_000)]
    wanted[5] = Submission(plan=PLAN, run_id="bad/id")
    found = await client.submit_many(wanted)
    assert isinstance(found[5], InvalidRequest)
    runs = [run for run in found if isinstance(run, RunView)]
    assert [run.id for run in runs] == [f"r{n}" for n in range(2_000) if n != 5]
    assert sum(len(runs) for runs in cluster.runs.values()) == 1_999
    assert len({run.created_ms for run in cluster.accepted.values()}) == 1_999
    assert len(cluster.sent(StorePlan)) <= 4


async def test_many_runs_report_who_was_refused_and_who_not_answered(client, cluster, monkeypatch):
    monkeypatch.setattr(_submit, "MUTATION_S", 0.05)
    await client.submit(PLAN, run_id="a")
    found = await client.submit_many([Submission(plan=PLAN, run_id=name) for name in ("a", "b")])
    assert isinstance(found[0], Conflict)
    assert isinstance(found[1], RunView)
    cluster.faults.extend([LOST_REQUEST] * 1_000)
    (lost,) = await client.submit_many([Submission(plan=PLAN)])
    assert isinstance(lost, Unreachable)
    cluster.faults.clear()


async def test_a_plan_that_a_shard_forgot_is_stored_again(client, cluster):
    await client.submit_many([Submission(plan=PLAN) for _ in range(20)])
    for plans in cluster.plans.values():
        plans.clear()
    found = await client.submit_many([Submission(plan=PLAN) for _ in range(20)])
    assert all(isinstance(run, RunView) for run in found)


@pytest.mark.parametrize("level", ["journal", "snapshot", "memory"])
async def test_a_run_is_found_wherever_it_lives(cluster, client, level):
    run = await client.submit(PLAN, durability=level)
    assert run.shard == {"journal": run.shard, "snapshot": 3, "memory": 4}[level]
    other = Client(FakeTransport(cluster), namespace="default", timeout_s=0.2)
    await other.learn()
    assert (await other.get(run.id)).id == run.id
    stored = cluster.runs[run.shard][run.id]
    cluster.finish(stored)
    cluster.archive(stored)
    assert (await other.get(run.id)).archived
    assert (await other.plan(run.id)) == PLAN
    explained = await other.explain(run.id)
    assert (explained.state, explained.reasons) == ("COMPLETED", [])
    assert "has ended" in explained.summary
    with pytest.raises(Conflict, match="COMPLETED"):
        await other.cancel(run.id)


async def test_what_is_nowhere_is_not_found(client):
    for ask in (client.get, client.history, client.explain, client.plan, client.cancel):
        with pytest.raises(NotFound):
            await ask("nobody")
    with pytest.raises(InvalidRequest):
        await client.get("a.b")


async def test_changes_carry_ids_and_reach_the_run(client, cluster):
    run = await client.submit(PLAN)
    await client.pause(run.id)
    assert (await client.get(run.id)).conditions == ["PAUSED"]
    await client.resume(run.id)
    await client.signal(run.id, "go", {"by": "me"})
    assert cluster.signals[0].payload == {"by": "me"}
    assert cluster.signals[0].not_after_ms > 0
    cluster.faults.append(LOST_REQUEST)
    await client.cancel(run.id, reason="enough")
    (request,) = cluster.sent(CancelRun)
    assert request.request_id
    assert (await client.get(run.id)).state == "CANCELLED"
    with pytest.raises(InvalidRequest):
        await client.signal(run.id, "a b")


async def test_history_is_read_to_its_end(client, cluster):
    run = await client.submit(PLAN)
    cluster.history[run.id] = [HistoryEntry(number=n, time_ms=n, type="T") for n in range(1, 9)]
    assert [entry.number for entry in await client.history(run.id)] == list(range(1, 9))


async def test_the_list_joins_open_and_closed_runs(client, cluster):
    runs = [await client.submit(PLAN, labels={"n": str(n)}) for n in range(7)]
    for run in runs[:3]:
        stored = cluster.runs[run.shard][run.id]
        cluster.finish(stored)
        cluster.archive(stored)
    page = await client.list(limit=5)
    rest = await client.list(limit=5, cursor=page.cursor)
    shown = [run.id for run in [*page.runs, *rest.runs]]
    assert shown == [run.id for run in reversed(runs)]
    assert not rest.cursor
    assert {run.id for run in (await client.list(states=["COMPLETED"])).runs} == {
        run.id for run in runs[:3]
    }
    assert [run.id for run in (await client.list(labels={"n": "4"})).runs] == [runs[4].id]
    with pytest.raises(InvalidRequest):
        await client.list(limit=0)


async def test_wait_returns_when_the_run_has_ended_also_through_an_outage(client, cluster):
    run = await client.submit(PLAN)
    told = []
    cluster.faults.extend([LOST_REQUEST] * 30)
    waiting = asyncio.create_task(client.wait(run.id, on_trouble=told.append))
    cluster.finish(cluster.runs[run.shard][run.id], "FAILED")
    assert (await asyncio.wait_for(waiting, 30)).state == "FAILED"
    assert len(told) <= 1
    assert any(request.wait_ms > 0 for request in cluster.sent(GetRun))


class _Timed(FakeTransport):
    """Keeps how long each request could take, beside how long the server was asked to wait."""

    def __init__(self, cluster):
        super().__init__(cluster)
        self.times = []

    async def request(self, subject, data, *, timeout_s):
        self.times += [
            (timeout_s, request.wait_ms / 1_000)
            for request in decode(ClientBatch, data).requests
            if isinstance(request, GetRun)
        ]
        return await super().request(subject, data, timeout_s=timeout_s)


async def test_who_waits_for_a_run_does_not_take_a_waiting_server_for_a_silent_one(cluster):
    transport = _Timed(cluster)
    async with Client(transport, namespace="default", timeout_s=0.2) as client:
        await client.learn()
        run = await client.submit(PLAN)
        cluster.finish(cluster.runs[run.shard][run.id])
        await client.wait(run.id)
    ((timeout_s, wait_s),) = transport.times
    assert timeout_s > wait_s > 0


async def test_who_waits_is_told_once_what_a_run_waits_for():
    reasons = ["", "retry 2 of 9 in 8 s", "retry 2 of 9 in 3 s", "no worker offers gpu"]
    views = [RunView(id="r", workflow="w", state="RUNNING", reason=reason) for reason in reasons]
    views.append(RunView(id="r", workflow="w", state="FAILED", reason="exit code 1"))
    told = []

    async def get(_wait_s):
        return views.pop(0)

    await _follow.wait_end(
        get, timeout_s=None, outage_s=5, on_rest=lambda view: told.append(view.reason)
    )
    assert told == ["retry 2 of 9 in 8 s", "no worker offers gpu"]


async def test_an_archive_that_cannot_answer_now_is_an_outage():
    answers = [
        Unavailable("archive: the index cannot be followed"),
        RunView(id="r", workflow="w", state="FAILED"),
    ]

    async def get(_wait_s):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    told = []
    ended = await _follow.wait_end(get, timeout_s=5, outage_s=5, on_trouble=told.append)
    assert (ended.state, len(told)) == ("FAILED", 1)


async def test_wait_gives_up_after_its_time(client):
    run = await client.submit(PLAN)
    assert (await client.wait(run.id, timeout_s=0.02)).state == "PENDING"


async def test_an_outage_without_end_is_an_error(client, cluster):
    run = await client.submit(PLAN)
    cluster.faults.extend([LOST_REQUEST] * 10_000)
    with pytest.raises(Unreachable):
        await client.wait(run.id, outage_s=0.01)
    cluster.faults.clear()


async def test_watch_yields_each_change_and_the_end(client, cluster):
    run = await client.submit(PLAN)
    stored = cluster.runs[run.shard][run.id]
    states = []
    async for view in client.watch(run.id):
        states.append(view.state)
        if view.state == "PENDING":
            stored.state = "RUNNING"
            cluster.notify(run.shard)
        elif view.state == "RUNNING":
            cluster.finish(stored)
    assert states == ["PENDING", "RUNNING", "COMPLETED"]
    assert not any(cluster.listeners.values())


async def test_watch_sees_the_end_although_the_feed_is_silent(client, cluster, monkeypatch):
    monkeypatch.setattr(_follow, "POLL_S", 0.01)
    run = await client.submit(PLAN)
    states = []
    async for view in client.watch(run.id):
        states.append(view.state)
        stored = cluster.runs[run.shard][run.id]
        stored.state, stored.finished_ms = "CANCELLED", 1
    assert states == ["PENDING", "CANCELLED"]


async def test_rerun_takes_over_results_of_a_failed_run(client, cluster):
    run = await client.submit(PLAN, {"x": 1}, labels={"l": "m"}, durability="snapshot")
    with pytest.raises(Conflict):
        await client.rerun(run.id)
    steps = [
        StepView(path="a", state="COMPLETED", outputs={"k": "v"}),
        StepView(path="b", state="FAILED"),
    ]
    cluster.finish(cluster.runs[run.shard][run.id], "FAILED", steps=steps)
    again = await client.rerun(run.id, failed=True)
    request = cluster.sent(SubmitRun)[-1]
    assert request.carried == {"a": encode({"k": "v"})}
    assert (again.rerun_of, again.input, again.labels) == (run.id, {"x": 1}, {"l": "m"})
    assert again.shard == 3
    await client.rerun(run.id)
    assert cluster.sent(SubmitRun)[-1].carried == {}


async def test_logs_come_once_and_follow_to_the_end(client, cluster, monkeypatch):
    monkeypatch.setattr(_follow, "LOGS_POLL_S", 0.005)
    run = await client.submit(PLAN)
    key = f"default/{run.id}"

    def lines(first, *texts, path="a"):
        said = [LogLine(0, "stdout", text) for text in texts]
        return LogLines(1, key, 1 if path == "a" else 2, path, 1, first, said)

    cluster.logs += [lines(0, "1", "2"), lines(0, "1", "2"), lines(0, "x", path="b")]
    assert [got async for got in client.logs(run.id)] == [cluster.logs[0], cluster.logs[2]]
    seen = []
    async for got in client.logs(run.id, step="a", follow=True):
        seen += [line.text for line in got.lines]
        if seen == ["1", "2"]:
            cluster.logs.append(lines(2, "3"))
            cluster.finish(cluster.runs[run.shard][run.id])
    assert seen == ["1", "2", "3"]


ORDERS = subjects.worker_orders("default", "w1", "a", ["linux"])


async def test_drain_is_ordered_until_it_is_seen(client, cluster):
    worker = await client.drain("w1", grace_ms=5)
    assert worker.state == "Draining"
    (order,) = client._transport.published
    assert order == (ORDERS, encode(DrainWorker(5)))
    with pytest.raises(NotFound, match=r"online: w1"):
        await client.drain("w2")


async def test_the_worker_that_takes_the_place_is_not_drained(client, cluster):
    """A supervisor may start the next life before the end of the drained one is seen."""
    transport = client._transport
    published = transport.published

    async def publish(subject, data):
        published.append((subject, data))
        (cluster.info.workers[0].incarnation, cluster.info.workers[0].state) = ("b", "Online")

    transport.publish = publish
    worker = await client.drain("w1")
    assert (worker.incarnation, worker.state) == ("a", "Offline")
    assert [subject for subject, _ in published] == [ORDERS]


@pytest.mark.parametrize(("grace_ms", "sent"), [(None, 0), (0, 1), (7, 7)])
async def test_no_grace_is_not_the_workers_own_grace(client, cluster, grace_ms, sent):
    await client.drain("w1.a", grace_ms=grace_ms)
    assert client._transport.published == [(ORDERS, encode(DrainWorker(sent)))]


async def test_no_coordinator_is_unreachable(cluster):
    cluster.faults.extend([LOST_REQUEST] * 10_000)
    client = Client(FakeTransport(cluster), namespace="default", timeout_s=0.02)
    with pytest.raises(Unreachable, match="no coordinator answers at fake://cluster"):
        await client.learn()
    assert not cluster.sent(GetInfo)


async def test_who_is_heard_by_nobody_is_told_of_logins(client, cluster, monkeypatch):
    async def request(subject, data, *, timeout_s):
        raise NoResponders(f"nobody answers on {subject}")

    # All shards know the plan then.
    await client.submit_many([Submission(plan=PLAN) for _ in range(20)])
    monkeypatch.setattr(client._transport, "request", request)
    client._calls.timeout_s = 0.0
    with pytest.raises(Unreachable, match="or the login is not for namespace default"):
        await client.get("r")
    monkeypatch.setattr(_submit, "MUTATION_S", 0.0)
    (lost,) = await client.submit_many([Submission(plan=PLAN)])
    assert type(lost) is Unreachable
    assert "or the login is not for namespace default" in str(lost)


async def test_slots_that_moved_are_learned_while_nobody_answers(client, cluster, monkeypatch):
    monkeypatch.setattr(_calls, "INFO_AGE_S_MIN", 0.0)
    run = await client.submit(PLAN)
    stored = cluster.runs[run.shard].pop(run.id)
    cluster.info.slots = [2, 4096] if run.shard == 1 else [1, 4096]
    new = cluster.info.slots[0]
    cluster.runs[new][run.id] = stored
    cluster.faults.append(LOST_REQUEST)
    assert (await client.get(run.id)).id == run.id
    assert ARCHIVE not in {int(s.rsplit(".", 1)[1]) for s, _ in cluster.requests if "cmd" in s}
