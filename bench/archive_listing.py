"""How fast lists and searches over closed runs are, and how much archiving costs.

``python bench/archive_listing.py [--runs 100000] [--store STORE] [--json FILE]``

STORE is sqlite, jetstream or postgres. The servers are started for it (as the tests' are, but with
fsync); or ``--url postgresql://user:password@host/database``: a schema `headrace_bench`, which must
not exist, is made there and dropped at the end.

Fills an archive with runs of many workflows, states and labels (some rare), then times each kind
of page: the first, one in the middle, the narrow and the wide filters. A page should cost the
same however many runs there are; compare ``--runs 10000`` with ``--runs 1000000``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from headrace.bus import BrokerProcess, connect
from headrace.config import Postgres
from headrace.coordinator.archive import Archive, ArchivedRun, RunSummary, Segment
from headrace.coordinator.archive.jetstream import JetStreamArchive
from headrace.coordinator.archive.paging import Place, encode_cursor
from headrace.coordinator.archive.postgres import Access, PostgresArchive, look
from headrace.coordinator.archive.sqlite import SqliteArchive
from headrace.messages import ListRuns
from support.postgres import PASSWORD, running

BATCH = 500
ROUNDS = 30
NS = "default"
START_MS = 1_700_000_000_000


def closed(number: int, chance: random.Random) -> ArchivedRun:
    state = chance.choices(["COMPLETED", "FAILED", "CANCELLED"], [9_500, 495, 5])[0]
    labels = {"env": chance.choice(["prod", "dev"]), "team": f"t{chance.randrange(50)}"}
    if chance.random() < 0.0001:
        labels["incident"] = "yes"
    summary = RunSummary(
        namespace=NS,
        run=f"{number:08x}-{chance.getrandbits(64):016x}",
        workflow=f"workflow-{min(int(chance.expovariate(0.3)), 30)}",
        state=state,
        reason="" if state == "COMPLETED" else "step build: exit code 3",
        created_ms=START_MS + number * 20 + chance.randrange(5_000),
        started_ms=START_MS + number * 20 + 5_000,
        finished_ms=START_MS + number * 20 + 9_000,
        labels=labels,
        plan="0123456789abcdef0123456789abcdef",
        fingerprint="0123456789abcdef",
        events=12,
        shard=number % 8,
    )
    return ArchivedRun(summary, [Segment(1, chance.randbytes(60) * 8)])


def queries(runs: int) -> dict[str, ListRuns]:
    half = encode_cursor(Place(START_MS + runs * 10, ""))
    return {
        "newest": ListRuns(),
        "from the middle": ListRuns(cursor=half),
        "page of 1000": ListRuns(limit=1_000),
        "failed": ListRuns(states=["FAILED"]),
        "cancelled (0.05 %)": ListRuns(states=["CANCELLED"]),
        "failed or cancelled": ListRuns(states=["FAILED", "CANCELLED"], cursor=half),
        "workflow": ListRuns(workflow="workflow-3"),
        "workflow, cancelled": ListRuns(workflow="workflow-0", states=["CANCELLED"]),
        "label (half of all)": ListRuns(labels={"env": "prod"}, cursor=half),
        "label (0.01 %)": ListRuns(labels={"incident": "yes"}),
        "two labels": ListRuns(labels={"env": "prod", "team": "t7"}),
        "two labels, one rare": ListRuns(labels={"env": "prod", "incident": "yes"}),
        "label, workflow, failed": ListRuns(
            labels={"env": "dev"}, workflow="workflow-9", states=["FAILED"]
        ),
        "nothing matches": ListRuns(labels={"env": "prod"}, workflow="no-such"),
        "since": ListRuns(since_ms=START_MS + runs * 19),
    }


@asynccontextmanager
async def opened(store: str, folder: Path, url: str) -> AsyncGenerator[tuple[Archive, Any]]:
    """Yield an archive and a function that opens it anew."""
    if store == "postgres" and not url:
        with running("fsync=on", "shared_buffers=128MB") as server:
            login = f"headrace:{quote(PASSWORD, safe='')}@"
            async with opened(store, folder, server.url().replace("headrace@", login)) as found:
                yield found
        return
    if store == "postgres":
        settings = Postgres(url=url, schema="headrace_bench", statement_timeout_ms=600_000)

        async def postgres() -> Archive:
            archive = PostgresArchive(settings, coordinator="bench")
            await archive.prepare()
            return archive

        access = Access(settings, name="bench")
        try:
            if (await look(access)).applied:
                raise SystemExit(f"{settings.place} has a schema headrace_bench: drop it first")
            try:
                yield await postgres(), postgres
            finally:
                async with access.session() as session:
                    await session.execute("DROP SCHEMA IF EXISTS headrace_bench CASCADE")
        finally:
            await access.close()
        return
    if store == "sqlite":

        async def sqlite() -> Archive:
            return await SqliteArchive.open(folder / "archive.db")

        yield await sqlite(), sqlite
        return
    broker = BrokerProcess(folder / "broker", name="bench")
    await broker.start()
    try:
        async with await connect(broker.url, name="bench") as bus:

            async def jetstream() -> Archive:
                return await JetStreamArchive.open(bus, projection_file=folder / "projection.db")

            yield await jetstream(), jetstream
    finally:
        await broker.stop()


async def measure(runs: int, store: str, folder: Path, url: str) -> dict[str, Any]:
    chance = random.Random(1)
    async with opened(store, folder, url) as (archive, reopen):
        spent_s = 0.0
        for start in range(0, runs, BATCH):
            batch = [closed(n, chance) for n in range(start, min(start + BATCH, runs))]
            began_s = time.perf_counter()
            await archive.put(batch)
            spent_s += time.perf_counter() - began_s
        await archive.close()
        began_s = time.perf_counter()
        archive = await reopen()
        newest = (await archive.list(NS, ListRuns())).runs[0]
        opened_s = time.perf_counter() - began_s
        rows: dict[str, dict[str, float]] = {}
        for name, query in queries(runs).items():
            times_ms: list[float] = []
            found = 0
            for _ in range(ROUNDS):
                began_s = time.perf_counter()
                found = len((await archive.list(NS, query)).runs)
                times_ms.append((time.perf_counter() - began_s) * 1_000)
            rows[name] = {
                "runs": found,
                "p50_ms": statistics.median(times_ms),
                "max_ms": max(times_ms),
            }
        began_s = time.perf_counter()
        await archive.history(NS, newest.id)
        history_ms = (time.perf_counter() - began_s) * 1_000
        began_s = time.perf_counter()
        expired = await archive.expire(before_ms=START_MS + 9_000 + 20 * BATCH, limit=BATCH)
        expire_ms = (time.perf_counter() - began_s) * 1_000
        await archive.close()
    return {
        "store": store,
        "runs": runs,
        "put_us_a_run": spent_s / runs * 1e6,
        "open_until_first_page_s": opened_s,
        "history_ms": history_ms,
        "expired": expired,
        "expire_ms": expire_ms,
        "pages": rows,
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['store']}, {result['runs']:,} closed runs, {result['machine']}")
    print(f"put, {BATCH} runs at a time: {result['put_us_a_run']:.1f} µs a run")
    print(f"open until the first page:  {result['open_until_first_page_s']:.2f} s")
    print(f"one history:                {result['history_ms']:.2f} ms")
    print(f"expire {result['expired']} runs:            {result['expire_ms']:.1f} ms\n")
    print(f"{'page of runs':<26}{'runs':>6}{'p50 ms':>10}{'max ms':>10}")
    for name, row in result["pages"].items():
        print(f"{name:<26}{row['runs']:>6.0f}{row['p50_ms']:>10.2f}{row['max_ms']:>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--store", choices=["sqlite", "jetstream", "postgres"], default="sqlite")
    parser.add_argument("--url", default="", help="of the database, with --store postgres")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        result = asyncio.run(measure(options.runs, options.store, Path(folder), options.url))
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
