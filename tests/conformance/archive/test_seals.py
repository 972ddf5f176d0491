"""Evidence from every archive: a run that was archived in segments while it lived, and its seal."""

from __future__ import annotations

import asyncio
import functools

import msgspec
import pytest

from headrace.coordinator.archive import Archive, Segment
from headrace.coordinator.core import entries as core_entries
from headrace.coordinator.runtime.archiver import Archiver, pack, unpack
from headrace.coordinator.runtime.closed import answer
from headrace.coordinator.runtime.evidence import Notary
from headrace.evidence import check
from headrace.messages import GetEvidence, SignalRun
from support.broker import eventually
from support.bundles import signer
from support.ownerkit import BUILTIN, Kit, ask, report, submit
from support.plans import plan, task

WITHIN_S = 60
BY = signer(1)
SIGNALS = 3


class Changed:
    """An archive in which somebody has changed the history of a run."""

    def __init__(self, archive: Archive, segments: list[Segment]) -> None:
        self._archive, self._segments = archive, segments

    async def history(self, namespace: str, run: str, **_: int) -> list[Segment]:
        return self._segments

    def __getattr__(self, name: str) -> object:
        return getattr(self._archive, name)


async def segments_of(archive: Archive, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while len(await archive.history("default", "r")) < count:
            await asyncio.sleep(0.01)


async def exported(archive: Archive) -> bytes:
    text = await answer(archive, BUILTIN, "default", GetEvidence(run="r"), Notary(BY))
    assert isinstance(text, bytes), text
    return text


def where(text: bytes) -> set[str]:
    return {found.where for found in check(text, key=BY.key).findings}


@pytest.fixture
async def lived(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The archive of one run, each event of which was archived soon after it happened."""
    monkeypatch.setattr(core_entries, "LONG_BYTES", 1)
    monkeypatch.setattr("support.ownerkit.Archiver", functools.partial(Archiver, notary=Notary(BY)))
    kit = Kit()
    kit.archive = archive
    async with kit.leading() as owner:
        await submit(owner, plan(task("a")))
        for number in range(SIGNALS):
            late_ms = owner._clock.now_ms() + 60_000
            more = {"request_id": f"q{number}", "not_after_ms": late_ms}
            reply = ask(owner, SignalRun(run="r", name="note", payload=f"said {number}", **more))
            await reply.reply()
            await segments_of(archive, number + 1)
        await report(owner, kit.dispatch.sent[0]).reply()
        # Not before: what a segment that was stored last lacks is stored behind the record.
        await eventually(lambda: "default/r" not in owner.machine.state.runs, within_s=WITHIN_S)
    return archive


async def test_a_run_in_segments_has_a_seal_of_all_of_them(lived):
    segments = await lived.history("default", "r")
    assert len(segments) > SIGNALS
    text = await exported(lived)
    verdict = check(text, key=BY.key)
    assert (verdict.findings, verdict.sealed) == ([], True)
    bundle = msgspec.json.decode(text)
    assert bundle["seal"]["events"] == bundle["head"]["events"] == verdict.events
    assert bundle["run"]["archived"]


async def test_a_change_in_any_segment_is_found(lived):
    segments = await lived.history("default", "r")
    for number in range(SIGNALS):
        said, other = f"said {number}".encode(), f"sa1d {number}".encode()
        forged = [
            Segment(s.first, pack([chunk.replace(said, other) for chunk in unpack(s.data)]))
            for s in segments
        ]
        assert [a == b for a, b in zip(forged, segments, strict=True)].count(False) == 1
        # Whoever exports it writes all digests anew, and signs: the seal is what remains.
        assert where(await exported(Changed(lived, forged))) == {"seal"}


async def test_a_missing_end_is_found(lived):
    segments = await lived.history("default", "r")
    text = await exported(Changed(lived, segments[:-1]))
    assert "seal" in where(text)
