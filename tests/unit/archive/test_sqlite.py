import os
import sqlite3
import subprocess
import sys

import pytest

from headrace.coordinator.archive import ArchivedRun, RunSummary, Segment
from headrace.coordinator.archive.database import Database
from headrace.coordinator.archive.sqlite import SqliteArchive
from headrace.errors import Unavailable
from headrace.messages import ListRuns


def closed(run):
    summary = RunSummary(
        namespace="ns",
        run=run,
        workflow="w",
        state="COMPLETED",
        created_ms=1,
        finished_ms=2,
        plan="p",
    )
    return ArchivedRun(summary, [Segment(1, b"x" * 5_000)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "archive.db"


async def test_what_was_put_is_there_after_closing(path):
    archive = await SqliteArchive.open(path)
    await archive.put([closed("a")])
    await archive.put_plan("p", b"plan")
    await archive.close()
    archive = await SqliteArchive.open(path)
    assert await archive.history("ns", "a") == closed("a").segments
    assert await archive.plan("p") == b"plan"
    await archive.close()


async def test_a_second_opener_is_refused_and_told_who_holds_it(path):
    archive = await SqliteArchive.open(path)
    with pytest.raises(Unavailable, match=rf"pid {os.getpid()}.*JetStream"):
        await SqliteArchive.open(path)
    await archive.put([closed("a")])
    await archive.close()
    again = await SqliteArchive.open(path)
    await again.close()


async def test_another_process_is_refused_and_a_dead_one_holds_nothing(path):
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from headrace.coordinator.archive.sqlite import SqliteArchive\n"
        "async def main():\n"
        f"    archive = await SqliteArchive.open(Path({str(path)!r}))\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"open\n"
            with pytest.raises(Unavailable, match=f"pid {process.pid}"):
                await SqliteArchive.open(path)
        finally:
            process.kill()
    archive = await SqliteArchive.open(path)
    await archive.close()


async def test_a_newer_layout_is_refused_and_left_alone(path):
    archive = await SqliteArchive.open(path)
    await archive.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Unavailable, match="layout 99"):
        await SqliteArchive.open(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()
    archive = await SqliteArchive.open(path)
    await archive.close()


async def test_a_file_that_is_no_database_is_said(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1_000)
    with pytest.raises(Unavailable, match="not a database"):
        await SqliteArchive.open(path)
    assert path.read_bytes().startswith(b"not a database")


async def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="archive"):
        await SqliteArchive.open(tmp_path / "file" / "archive.db")


async def test_commits_reach_the_disk(path):
    archive = await SqliteArchive.open(path)
    try:
        modes = await archive._writer.read(
            lambda db: [
                db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "auto_vacuum")
            ]
        )
        assert modes == ["wal", 2, 2]
    finally:
        await archive.close()


async def test_a_failed_put_leaves_nothing(path, monkeypatch):
    archive = await SqliteArchive.open(path)
    try:

        def full(db, rows):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr("headrace.coordinator.archive.sqlite._put_segments", full)
        with pytest.raises(Unavailable, match="disk is full"):
            await archive.put([closed("a")])
        monkeypatch.undo()
        assert (await archive.list("ns", ListRuns())).runs == []
        await archive.put([closed("a")])
        assert await archive.history("ns", "a") == closed("a").segments
    finally:
        await archive.close()


async def test_expiry_gives_space_back(path):
    archive = await SqliteArchive.open(path)
    try:
        await archive.put([closed(f"r{n}") for n in range(300)])

        def pages(db):
            return db.execute("PRAGMA page_count").fetchone()[0]

        before = await archive._writer.read(pages)
        assert await archive.expire(before_ms=10, limit=1_000) == 300
        assert await archive._writer.read(pages) < before / 3
    finally:
        await archive.close()


async def test_one_put_is_one_hop_and_one_transaction(path, monkeypatch):
    archive = await SqliteArchive.open(path)
    try:
        hops = []
        call = Database._call

        async def counted(self, work, *args, **kw):
            hops.append(work)
            return await call(self, work, *args, **kw)

        monkeypatch.setattr(Database, "_call", counted)
        await archive.put([closed(f"r{n}") for n in range(100)])
        assert len(hops) == 1
    finally:
        await archive.close()
