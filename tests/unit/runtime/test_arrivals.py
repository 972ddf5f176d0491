"""Reading events from outside: order, takeovers in the middle, troubles of the stream, limits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import msgspec
import pytest

from headrace.coordinator.core import arrivals as core_arrivals
from headrace.coordinator.runtime import arrivals
from headrace.coordinator.runtime.arrivals import Reader
from headrace.coordinator.runtime.watch import Watch
from headrace.errors import Unreachable
from headrace.messages import RegisterDefinition, subjects
from headrace.plan import EventTrigger, InputSpec, encode_plan
from support.broker import eventually
from support.incoming import FakeIncoming
from support.ownerkit import ask
from support.plans import plan, task

ORDERS = EventTrigger(
    subject="orders.*", filter="event.data.n >= 0", inputs={"n": "${{ event.data.n }}"}
)
PLAN = plan(task("a"), events=(ORDERS,), inputs={"n": InputSpec(type="number", required=True)})


class Counting(Watch):
    def __init__(self):
        self.seen = {"begun": 0, "failed": 0, "unmatched": 0, "lost": 0}

    def events_taken(self, begun, held, failed, unmatched):
        for name, count in (("begun", begun), ("failed", failed), ("unmatched", unmatched)):
            self.seen[name] += count

    def events_lost(self, events):
        self.seen["lost"] += events


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(arrivals, "RETRY_S", 0.01)
    monkeypatch.setattr(arrivals, "LOGGED_S", 0.2)
    monkeypatch.setattr(arrivals, "POLL_S", 0.05)


@pytest.fixture
def incoming():
    return FakeIncoming()


@asynccontextmanager
async def reading(kit, incoming, watch=None, log=None):
    """An owner and its reader."""
    async with kit.leading(log) as owner:
        task_ = asyncio.create_task(Reader(incoming, owner, watch or Watch()).run())
        try:
            yield owner
            assert not task_.done(), task_
        finally:
            task_.cancel()
            await asyncio.gather(task_, return_exceptions=True)


async def register(owner, name="order", found=PLAN):
    request = RegisterDefinition(
        name=name,
        plan=encode_plan(found),
        request_id=f"q-{name}",
        not_after_ms=owner._clock.now_ms() + 60_000,
    )
    reply = await ask(owner, request).reply()
    assert not reply.code, reply


def publish(incoming, *numbers, **options):
    return [
        incoming.publish("orders.new", msgspec.json.encode({"n": n}), **options) for n in numbers
    ]


def begun(owner):
    """Return what its runs were given, in the order of the events."""
    state = owner.machine.state
    return sorted(msgspec.msgpack.decode(run.input)["n"] for run in state.runs.values())


async def test_events_begin_runs_in_any_state_of_the_stream(kit, incoming):
    watch = Counting()
    async with reading(kit, incoming, watch) as owner:
        await register(owner)
        publish(incoming, 1, 2)
        await eventually(lambda: begun(owner) == [1, 2])
        # Nobody hears of these: they are found all the same.
        publish(incoming, 3, -1, quiet=True)
        await eventually(lambda: begun(owner) == [1, 2, 3])
        await eventually(lambda: watch.seen["unmatched"] == 1)
    assert watch.seen == {"begun": 3, "failed": 0, "unmatched": 1, "lost": 0}
    assert kit.folded().incoming.position == 4


async def test_a_successor_goes_on_and_begins_nothing_twice(kit, incoming):
    async with reading(kit, incoming) as owner:
        await register(owner)
        publish(incoming, 1)
        await eventually(lambda: begun(owner) == [1])
        kit.log.gate.clear()
        publish(incoming, 2, 3)
        # Its owner dies while this is being logged.
        await eventually(lambda: kit.log.waiting)
    async with reading(kit, incoming) as owner:
        await eventually(lambda: begun(owner) == [1, 2, 3])
        publish(incoming, 4)
        await eventually(lambda: begun(owner) == [1, 2, 3, 4])
    assert len(kit.folded().runs) == 4


async def test_an_append_of_unknown_outcome_is_no_second_run(kit, incoming):
    async with reading(kit, incoming) as owner:
        await register(owner)
        kit.log.stored_all_the_same = True
        kit.log.faults.append(Unreachable("no answer"))
        publish(incoming, 1)
        await eventually(lambda: owner.machine is not None and begun(owner) == [1])
        publish(incoming, 2)
        await eventually(lambda: owner.machine is not None and begun(owner) == [1, 2])
    assert len(kit.folded().runs) == 2


async def test_troubles_of_the_broker_pass(kit, incoming):
    async with reading(kit, incoming) as owner:
        await register(owner)
        incoming.faults += [Unreachable("away")] * 3
        publish(incoming, 1)
        await eventually(lambda: begun(owner) == [1])


async def test_a_stream_that_is_made_anew_is_read_from_its_beginning(kit, incoming):
    async with reading(kit, incoming) as owner:
        await register(owner)
        publish(incoming, 1, 2)
        await eventually(lambda: begun(owner) == [1, 2])
        incoming.delete()
        await eventually(lambda: incoming.there)
        publish(incoming, 3)
        await eventually(lambda: begun(owner) == [1, 2, 3])


async def test_bad_events_are_told_of_and_wedge_nothing(kit, incoming, caplog):
    watch = Counting()
    async with reading(kit, incoming, watch) as owner:
        await register(owner)
        incoming.publish("orders.new", b"{no json", {"ce-id": "bad-1"})
        publish(incoming, 5)
        await eventually(lambda: begun(owner) == [5])
        await eventually(lambda: watch.seen["failed"] == 1)
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (told.definition, told.event) == ("default/order", "bad-1")
    assert "not JSON" in told.problem


async def test_events_that_were_too_old_are_told_of(kit, incoming, caplog):
    watch = Counting()
    async with reading(kit, incoming, watch) as owner:
        await register(owner)
        publish(incoming, 1)
        await eventually(lambda: begun(owner) == [1])
    publish(incoming, 2, 3, 4)
    incoming.forget(3)
    async with reading(kit, incoming, watch) as owner:
        await eventually(lambda: begun(owner) == [1, 4])
    assert watch.seen["lost"] == 2
    assert any("unread" in record.message for record in caplog.records)


async def test_nothing_is_read_while_what_is_begun_does_not_leave(kit, incoming, monkeypatch):
    monkeypatch.setattr(core_arrivals, "WAITING_MAX", 2)
    kit.home = lambda key: 0 if key.startswith("default/order-e1-") else 1
    async with reading(kit, incoming) as owner:
        await register(owner)
        publish(incoming, 1)
        await eventually(lambda: begun(owner) == [1])
        publish(incoming, 2, 3, 4)
        await eventually(lambda: len(owner.machine.state.outbox) == 3)
        publish(incoming, 5)
        before = owner.machine.state.incoming.position
        count = len(incoming.reads)
        await asyncio.sleep(0)
        assert owner.machine.state.incoming.position == before == 4
        for outgoing, logged in list(kit.peers.sent):
            logged(outgoing.message)
        await eventually(lambda: owner.machine.state.incoming.position == 5)
        assert len(incoming.reads) > count


async def test_what_was_read_leaves_a_stream_that_gets_full(kit, monkeypatch):
    monkeypatch.setattr(arrivals, "PURGE_S", 0.0)
    incoming = FakeIncoming(bytes_max=10)
    async with reading(kit, incoming) as owner:
        await register(owner)
        publish(incoming, 1, 2)
        await eventually(lambda: begun(owner) == [1, 2] and not incoming.events)


def test_ids_of_runs_are_names():
    longest = subjects.event_run("n" * 128 + "/" + "d" * 100, "made", 2**63)
    assert subjects.valid_name(longest.partition("/")[2])
