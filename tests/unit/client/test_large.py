"""Claim checks of the client."""

import pytest

from headrace.client import Client, Submission
from headrace.errors import LimitExceeded
from headrace.messages import StepView, SubmitRun, encode
from headrace.payloads import Blob, reference, reference_to
from headrace.plan import Group, Plan, Task
from support.fake_server import FakeCluster, FakeTransport

PLAN = Plan(
    name="hello", nodes=(Group(name="hello", size=2), Task(name="a", uses="noop", parent=0))
)
LARGE = "x" * 2_000


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.info.payload_inline = 1_000
    cluster.info.payload_max = 100_000
    return cluster


@pytest.fixture
def transport(cluster):
    return FakeTransport(cluster)


@pytest.fixture
async def client(transport):
    async with Client(transport, namespace="default", timeout_s=0.2) as client:
        await client.learn()
        yield client


async def test_large_values_of_an_input_go_to_the_store_first(client, cluster, transport):
    run = await client.submit(PLAN, {"text": LARGE, "n": 1}, run_id="r")
    (name,) = [name for _, name in transport.objects]
    assert name.startswith("default/r/")
    assert run.input == {"text": reference_to(name, len(encode(LARGE))), "n": 1}
    assert transport.objects["headrace-blobs", name] == encode(LARGE)
    whole = await client.whole(run)
    assert whole.input == {"text": LARGE, "n": 1}


async def test_the_same_submit_again_sends_the_same_references(client, cluster, transport):
    # Keys in another order are the same input.
    for value in ({"a": LARGE, "b": 1}, {"b": 1, "a": LARGE}):
        await client.submit_many([Submission(plan=PLAN, input={"v": value}, run_id="r")])
    assert len({encode(request.input) for request in cluster.sent(SubmitRun)}) == 1
    assert len(transport.objects) == 1


async def test_many_runs_at_once(client, cluster, transport):
    found = await client.submit_many(
        [Submission(plan=PLAN, input={"text": size * "x"}) for size in (10, 2_000, 200_000)]
    )
    assert found[0].input == {"text": 10 * "x"}
    assert reference(found[1].input["text"]) is not None
    assert isinstance(found[2], LimitExceeded)
    assert len(transport.objects) == 1


async def test_over_the_hard_limit_nothing_is_sent(client, cluster, transport):
    with pytest.raises(LimitExceeded, match=r"input has 100\d\d\d bytes, the cluster takes 100000"):
        await client.submit(PLAN, {"text": "x" * 100_000})
    run = await client.submit(PLAN)
    with pytest.raises(LimitExceeded, match="payload"):
        await client.signal(run.id, "go", "x" * 100_000)
    assert transport.objects == {}
    assert cluster.signals == []


async def test_without_a_store_everything_stays_inline(client, cluster, transport):
    cluster.info.payload_inline = 0
    await client.learn()
    run = await client.submit(PLAN, {"text": LARGE})
    assert run.input == {"text": LARGE}
    with pytest.raises(LimitExceeded):
        await client.submit(PLAN, {"text": "x" * 100_000})


async def test_signals(client, cluster, transport):
    run = await client.submit(PLAN, run_id="r")
    await client.signal(run.id, "go", LARGE)
    await client.signal(run.id, "go", {"text": LARGE, "by": "me"})
    await client.signal(run.id, "go", {"by": "me"})
    whole, fields, small = (signal.payload for signal in cluster.signals)
    assert whole == fields["text"]
    assert reference(whole).ref.startswith("default/r/")
    assert fields["by"] == "me"
    assert small == {"by": "me"}


async def test_whole_views_keep_references_to_what_is_gone(client, cluster, transport):
    run = await client.submit(PLAN, {"text": LARGE})
    there, gone = run.input["text"], reference_to("default/other/1", 7)
    live = cluster.runs[run.shard][run.id]
    live.output = {"x": [there, gone]}
    live.steps = [StepView(path="a", state="COMPLETED", outputs={"y": there})]
    view = await client.get(run.id)
    assert view.output == live.output
    whole = await client.whole(view)
    assert whole.output == {"x": [LARGE, gone]}
    assert whole.steps[0].outputs == {"y": LARGE}
    assert reference(gone) == Blob("default/other/1", 7)
