"""Inputs of tasks in the object store."""

import asyncio

import msgspec
import pytest

from headrace.bus import ObjectBucket
from headrace.coordinator.dispatch import oversized as module
from headrace.coordinator.dispatch.oversized import Oversized
from headrace.messages import Task, encode, subjects
from headrace.payloads import reference
from support.broker import bus, shared_broker

__all__ = ["bus", "shared_broker"]
pytestmark = pytest.mark.integration

TASK = Task("default/r", 3, "a", 1, 7, "noop", msgspec.Raw(encode({"x": "y" * 300_000})))


def asked(oversized, task=TASK, *, wanted=True):
    """Return what becomes of a task: another one, or the reason of the failure."""
    future = asyncio.get_running_loop().create_future()
    oversized.store(task, future.set_result, future.set_result, wanted=lambda: wanted)
    return asyncio.wait_for(future, 30)


async def test_the_task_refers_to_its_inputs(bus):
    bucket = ObjectBucket(bus, subjects.BLOB_BUCKET)
    await bucket.ensure()
    oversized = Oversized(bus)
    slim, again = await asked(oversized), await asked(oversized)
    assert slim == again
    blob = reference(msgspec.msgpack.decode(slim.inputs))
    assert blob.ref.startswith("default/r/")
    assert await bucket.get(blob.ref) == bytes(TASK.inputs)
    assert msgspec.structs.replace(slim, inputs=TASK.inputs) == TASK
    oversized.close()
    await bus.js.delete_stream(f"OBJ_{subjects.BLOB_BUCKET}")


async def test_without_a_store_the_reason_is_told(bus, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 1.0)
    assert isinstance(await asked(Oversized(bus), wanted=False), str)
    monkeypatch.setattr(module, "WAITING_MAX", 0)
    assert await asked(Oversized(bus)) == "too many large inputs at a time"
