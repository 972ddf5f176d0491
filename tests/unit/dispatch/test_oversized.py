"""Inputs that go through the object store: what happens while it is away."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from headrace.coordinator.dispatch import oversized
from headrace.errors import LimitExceeded, Unreachable
from headrace.messages import encode
from support.broker import eventually
from support.dispatchkit import tasks


class Bucket:
    """Fails as it is told, then keeps what it is given."""

    def __init__(self, *errors):
        self.errors, self.names = list(errors), []

    async def has(self, name, *, size):
        if self.errors:
            raise self.errors.pop(0)
        return False

    async def put(self, name, data):
        self.names.append(name)


@pytest.fixture
def store(monkeypatch):
    """Return a function that stores one task's inputs: (bucket, still wanted) -> (sent, failed)."""
    monkeypatch.setattr(oversized, "PAUSE_S", 0.001)
    made = []

    def begin(bucket, *, wanted=lambda: True):
        monkeypatch.setattr(oversized, "ObjectBucket", lambda *_, **__: bucket)
        storing = oversized.Oversized(None)
        made.append(storing)
        sent, failed = [], []
        (task,) = tasks(1, inputs=msgspec.Raw(encode("x" * 5_000)))
        storing.store(task, sent.append, failed.append, wanted=wanted)
        return sent, failed

    yield begin
    for storing in made:
        storing.close()


async def test_a_store_that_is_away_is_waited_for(store):
    bucket = Bucket(Unreachable("no answer"), Unreachable("no answer"))
    sent, failed = store(bucket)
    await eventually(lambda: sent)
    assert failed == []
    assert len(sent[0].inputs) < 200
    assert len(bucket.names) == 1


async def test_what_can_never_be_stored_fails(store):
    sent, failed = store(Bucket(LimitExceeded("9 bytes; the limit is 8")))
    await eventually(lambda: failed)
    assert failed == ["9 bytes; the limit is 8"]
    assert sent == []


async def test_what_nobody_wants_any_more_is_given_up(store):
    sent, failed = store(Bucket(*[Unreachable("no answer")] * 1_000), wanted=lambda: False)
    await eventually(lambda: failed)
    assert sent == []


async def test_inputs_wait_for_their_turn(monkeypatch):
    """However many there are, few are stored at a time, and none fails for it."""
    busy, most = 0, 0

    class Slow(Bucket):
        async def put(self, name, data):
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0)
            busy -= 1

    monkeypatch.setattr(oversized, "ObjectBucket", lambda *_, **__: Slow())
    storing = oversized.Oversized(None)
    sent, failed = [], []
    for task in tasks(*range(200), inputs=msgspec.Raw(encode("x" * 5_000))):
        storing.store(task, sent.append, failed.append, wanted=lambda: True)
    await eventually(lambda: len(sent) == 200)
    assert failed == []
    assert most == oversized.STORING_MAX
    storing.close()
