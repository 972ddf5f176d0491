"""Nothing goes to the archive that is not in the log."""

from __future__ import annotations

import asyncio

from headrace.coordinator.core import Limits
from headrace.coordinator.core import entries as core_entries
from headrace.coordinator.runtime import archiver as archiver_module
from headrace.coordinator.runtime.archiver import unpack
from headrace.messages import SignalRun
from support.broker import eventually
from support.ownerkit import Kit, ask, submit
from support.plans import plan, task


class Slow(archiver_module.Archiver):
    """Waits until it is told to look, as a busy loop would."""

    go = asyncio.Event()

    async def _store_long(self, post):
        await self.go.wait()
        await super()._store_long(post)


async def test_a_segment_leaves_out_what_is_being_appended(monkeypatch):
    """A large tick has several chunks of one run: all but the newest were archived meanwhile."""
    monkeypatch.setattr(core_entries, "LONG_BYTES", 1)
    monkeypatch.setattr("support.ownerkit.Archiver", Slow)
    Slow.go = asyncio.Event()
    kit = Kit()
    async with kit.leading(limits=Limits(append_bytes=100)) as owner:
        await submit(owner, plan(task("a")))
        run = owner.machine.state.runs["default/r"]
        logged = len(run.history)
        kit.log.gate.clear()
        late_ms = owner._clock.now_ms() + 60_000
        for number in range(4):
            more = {"run": "r", "request_id": f"q{number}", "not_after_ms": late_ms}
            ask(owner, SignalRun(name=f"s{number}", payload="x" * 90, **more))
        await eventually(lambda: kit.log.waiting)
        assert len(run.history) > logged + 1
        Slow.go.set()
        for _ in range(50):
            # The archiver has all the turns that it wants.
            await asyncio.sleep(0)
        stored = await kit.archive.history("default", "r")
        assert sum(len(unpack(segment.data)) for segment in stored) < logged
        kit.log.gate.set()


class Unheard(archiver_module.Archiver):
    """What it has for the log is lost with its owner's state."""

    stored = 0

    async def _store_segment(self, run, first, count, post):
        await super()._store_segment(run, first, count, lambda _apply: None)
        type(self).stored += 1


async def test_a_segment_that_is_never_logged_holds_up_nothing(monkeypatch):
    monkeypatch.setattr(core_entries, "LONG_BYTES", 1)
    monkeypatch.setattr(archiver_module, "LOGGED_S", 0.01)
    monkeypatch.setattr("support.ownerkit.Archiver", Unheard)
    Unheard.stored = 0
    kit = Kit()
    async with kit.leading() as owner:
        await submit(owner, plan(task("a")))
        for number in range(3):
            late_ms = owner._clock.now_ms() + 60_000
            more = {"run": "r", "request_id": f"q{number}", "not_after_ms": late_ms}
            ask(owner, SignalRun(name=f"s{number}", payload=1, **more))
        await eventually(lambda: Unheard.stored)
