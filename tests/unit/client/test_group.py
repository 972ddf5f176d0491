"""Questions to a queue group of which a member is frozen."""

import asyncio

import pytest

from headrace.client import Client, _group
from headrace.errors import Unreachable
from headrace.messages import GetInfo, RunView, subjects
from support.fake_server import ARCHIVE, FakeCluster, FakeTransport

TO_ONE = {subjects.INFO, subjects.archive("default")}
TO_ALL = {subjects.everybody(subject) for subject in TO_ONE}


class HalfFrozen(FakeTransport):
    """Some subjects reach a process that answers nothing, for as long as one waits."""

    def __init__(self, cluster, silent):
        super().__init__(cluster)
        self.silent = silent
        self.asked = []
        self.waiting = 0

    async def request(self, subject, data, *, timeout_s):
        self.asked.append(subject)
        if subject not in self.silent:
            return await super().request(subject, data, timeout_s=timeout_s)
        self.waiting += 1
        try:
            await asyncio.sleep(timeout_s)
        finally:
            self.waiting -= 1
        raise Unreachable("no answer")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(_group, "PATIENCE_S", 0.01)


async def test_one_is_asked_while_it_answers():
    transport = HalfFrozen(FakeCluster(), silent=())
    async with Client(transport, namespace="default") as client:
        await client.learn()
        await client.info(workers=True)
    assert transport.asked == [subjects.INFO] * 2


async def test_everybody_is_asked_when_one_is_silent():
    cluster = FakeCluster()
    transport = HalfFrozen(cluster, silent=TO_ONE)
    cluster.runs[ARCHIVE]["old"] = RunView(
        id="old", workflow="w", state="COMPLETED", created_ms=1, finished_ms=2, shard=1
    )
    async with Client(transport, namespace="default", timeout_s=60.0) as client:
        async with asyncio.timeout(1.5):
            await client.learn()
            assert (await client.get("old")).state == "COMPLETED"
            assert [run.id for run in (await client.list()).runs] == ["old"]
        assert transport.waiting == 0, "requests are left behind"
    assert len(cluster.sent(GetInfo)) == 1


async def test_the_answer_of_the_slow_one_counts_when_nobody_else_listens():
    transport = FakeTransport(FakeCluster())
    answer = transport.request

    async def request(subject, data, *, timeout_s):
        if subject in TO_ALL:
            raise Unreachable("nobody answers")
        await asyncio.sleep(0.03)
        return await answer(subject, data, timeout_s=timeout_s)

    transport.request = request
    async with Client(transport, namespace="default") as client:
        await client.learn()


async def test_the_total_time_stays():
    transport = HalfFrozen(FakeCluster(), silent=TO_ONE | TO_ALL)
    async with Client(transport, namespace="default", timeout_s=0.2) as client:
        async with asyncio.timeout(1.5):
            with pytest.raises(Unreachable, match="no coordinator answers at fake://cluster"):
                await client.learn()
    assert transport.waiting == 0
