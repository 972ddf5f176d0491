"""The sweep of large values: what goes, what stays, and when in doubt nothing goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from headrace.bus import ObjectEntry
from headrace.coordinator.archive import ArchivedRun, RunSummary
from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.runtime import blobs
from headrace.coordinator.runtime.blobs import BlobSweep, Swept, keep_sweeping, run_of
from headrace.coordinator.runtime.layout import Layout
from headrace.errors import Unavailable, Unreachable
from headrace.messages import subjects

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
MARGIN_MS = 24 * HOUR_MS
LAYOUT = Layout(journal=2, snapshot=1, memory=1)


class Bucket:
    """A bucket in a dictionary."""

    def __init__(self) -> None:
        self.held: dict[str, ObjectEntry] = {}
        self.seq = 0
        self.trouble: Exception | None = None

    def put(self, name: str, *, age_ms: int = 2 * MARGIN_MS, size: int = 100) -> None:
        self.seq += 1
        self.held[name] = ObjectEntry(name, size, f"n{self.seq}", self.seq, NOW_MS - age_ms)

    async def entries(self, after: int, *, count: int) -> tuple[list[ObjectEntry], int]:
        rest = sorted((e for e in self.held.values() if e.seq > after), key=lambda e: e.seq)
        return rest[:count], rest[count - 1].seq if len(rest) > count else 0

    async def drop(self, entry: ObjectEntry) -> bool:
        if self.trouble is not None:
            raise self.trouble
        held = self.held.get(entry.name)
        if held is None or held.seq > entry.seq:
            return False
        del self.held[entry.name]
        return True


class Shards:
    """Owners of shards; `live` are run keys."""

    def __init__(self) -> None:
        self.live: dict[int, set[str]] = {number: set() for number in LAYOUT.shards}
        self.silent: set[int] = set()
        self.before: list[object] = []

    def hold(self, key: str, level: int = 0) -> int:
        shard = LAYOUT.homes(key)[level]
        self.live[shard].add(key)
        return shard

    async def ask(self, shard: int, namespace: str, runs: Sequence[str]) -> Iterable[str]:
        if shard in self.silent:
            raise Unreachable("nobody answers")
        return [run for run in runs if f"{namespace}/{run}" in self.live[shard]]


class Kit:
    def __init__(self) -> None:
        self.bucket, self.shards, self.archive = Bucket(), Shards(), MemoryArchive()
        self.sweep = self.another()

    def another(self) -> BlobSweep:
        return BlobSweep(self.bucket, self.archive, self.shards.ask, LAYOUT, margin_ms=MARGIN_MS)

    async def close_run(self, run: str, finished_ms: int = NOW_MS) -> None:
        summary = RunSummary(
            namespace="default",
            run=run,
            workflow="w",
            state="COMPLETED",
            created_ms=1,
            finished_ms=finished_ms,
            plan="p",
        )
        await self.archive.put([ArchivedRun(summary, [])])


@pytest.fixture
def kit() -> Kit:
    return Kit()


async def test_the_values_of_unknown_runs_go_once_they_are_old(kit: Kit) -> None:
    kit.bucket.put("default/gone/a", size=7)
    kit.bucket.put("default/gone/b", size=8)
    kit.bucket.put("default/coming/a", age_ms=MARGIN_MS)
    assert await kit.sweep.piece(NOW_MS) == Swept(3, 2, 15)
    assert list(kit.bucket.held) == ["default/coming/a"]
    assert await kit.sweep.piece(NOW_MS) == Swept(1, 0, 0)


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_the_values_of_live_runs_stay_at_every_level(kit: Kit, level: int) -> None:
    kit.bucket.put("default/live/a")
    kit.shards.hold("default/live", level)
    assert (await kit.sweep.piece(NOW_MS)).dropped == 0


async def test_the_values_of_archived_runs_go_with_their_retention(kit: Kit) -> None:
    await kit.close_run("old", finished_ms=NOW_MS - 10)
    await kit.close_run("new", finished_ms=NOW_MS)
    kit.bucket.put("default/old/a")
    kit.bucket.put("default/new/a")
    assert (await kit.sweep.piece(NOW_MS)).dropped == 0
    assert await kit.archive.expire(before_ms=NOW_MS - 5, limit=10) == 1
    assert (await kit.sweep.piece(NOW_MS)).dropped == 1
    assert list(kit.bucket.held) == ["default/new/a"]


@pytest.mark.parametrize("level", [0, 1, 2])
async def test_a_shard_that_does_not_answer_keeps_its_runs_values(kit: Kit, level: int) -> None:
    kit.bucket.put("default/perhaps/a")
    kit.shards.silent.add(LAYOUT.homes("default/perhaps")[level])
    assert (await kit.sweep.piece(NOW_MS)).dropped == 0
    kit.shards.silent.clear()
    assert (await kit.sweep.piece(NOW_MS)).dropped == 1


async def test_an_archive_that_does_not_answer_keeps_everything(kit: Kit) -> None:
    kit.bucket.put("default/perhaps/a")
    await kit.archive.close()
    with pytest.raises(Unavailable):
        await kit.sweep.piece(NOW_MS)
    assert kit.bucket.held


async def test_a_run_that_moves_to_the_archive_meanwhile_is_not_missed(kit: Kit) -> None:
    kit.bucket.put("default/moving/a")
    shard = kit.shards.hold("default/moving")
    ask = kit.shards.ask

    async def evicted_then_asked(number: int, namespace: str, runs: Sequence[str]) -> object:
        # The archive has it, then the shard lets go: whoever asks the archive first sees neither.
        await kit.close_run("moving")
        kit.shards.live[shard].clear()
        return await ask(number, namespace, runs)

    sweep = BlobSweep(
        kit.bucket,
        kit.archive,
        evicted_then_asked,  # type: ignore[arg-type]
        LAYOUT,
        margin_ms=MARGIN_MS,
    )
    assert (await sweep.piece(NOW_MS)).dropped == 0


async def test_a_round_is_made_of_pieces_and_begins_again(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "PIECE", 4)
    for number in range(10):
        kit.bucket.put(f"default/r{number}/a")
        if number % 2:
            kit.shards.hold(f"default/r{number}")
    looked = []
    while not looked or not kit.sweep.at_start:
        looked.append((await kit.sweep.piece(NOW_MS)).looked)
    assert looked == [4, 4, 2]
    assert [name[8:10] for name in kit.bucket.held] == ["r1", "r3", "r5", "r7", "r9"]


async def test_several_coordinators_may_sweep_at_once(kit: Kit) -> None:
    for number in range(20):
        kit.bucket.put(f"default/r{number}/a")
    sweeps = [kit.another() for _ in range(3)]
    done = await asyncio.gather(*(sweep.piece(NOW_MS) for sweep in sweeps))
    assert sum(swept.dropped for swept in done) == 20
    assert not kit.bucket.held


async def test_what_failed_is_swept_again(kit: Kit) -> None:
    kit.bucket.put("default/gone/a")
    kit.bucket.trouble = Unreachable("cut")
    with pytest.raises(Unreachable):
        await kit.sweep.piece(NOW_MS)
    kit.bucket.trouble = None
    assert (await kit.sweep.piece(NOW_MS)).dropped == 1


async def test_passes_go_on_after_trouble_and_stop_where_another_may(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "PASS_S", 0.0)
    monkeypatch.setattr(blobs, "PIECE", 2)
    monkeypatch.setattr(blobs, "PIECES", 2)
    for number in range(5):
        kit.bucket.put(f"default/r{number}/a")
    kit.bucket.trouble = Unreachable("cut")
    failures: list[int] = []
    pieces: list[Swept] = []
    empty = asyncio.Event()

    def failed() -> None:
        failures.append(1)
        kit.bucket.trouble = None

    def swept(piece: Swept) -> None:
        pieces.append(piece)
        if not kit.bucket.held:
            empty.set()

    leads = [False, True]
    task = asyncio.create_task(
        keep_sweeping(
            kit.sweep,
            now_ms=lambda: NOW_MS,
            may=lambda: leads.pop(0) if len(leads) > 1 else leads[0],
            swept=swept,
            failed=failed,
        )
    )
    try:
        await asyncio.wait_for(empty.wait(), 30)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert failures == [1]
    assert sum(piece.dropped for piece in pieces) == 5


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("default/r/abc", ("default", "r")),
        ("default/r/a/b", ("default", "r")),
        ("default/r/", None),
        ("default/r", None),
        ("other", None),
        ("", None),
        ("de fault/r/x", None),
        ("default//x", None),
    ],
)
def test_only_objects_of_runs_are_ours(name: str, run: tuple[str, str] | None) -> None:
    assert run_of(name) == run
    assert run is None or subjects.run_key(*run) in name
