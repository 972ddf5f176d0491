"""The command: rounds of faults, unattended, with a report. See `tests/chaos/README.md`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.rounds import network as networks
from support.rounds import report
from support.rounds.campaign import COMPARE_EACH, Campaign, Row, possible
from support.rounds.fleet import Fleet

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reliability.md"
SHOWN_VIOLATIONS_MAX = 5
SHOWN_CHARACTERS_MAX = 600
RESULTS = ROOT / "tests" / "chaos" / "results" / "rounds.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 0 when nothing was broken, 1 when something was, 130 when it was stopped."""
    parser = argparse.ArgumentParser(prog="rounds.py", description="Rounds of faults.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=25.0, help="no round begins later")
    parser.add_argument("--seed", type=int, help="without it, one is chosen and printed")
    parser.add_argument("--only", action="append", help="nemeses with this in their name")
    parser.add_argument("--loopback", action="store_true", help="no network namespaces")
    parser.add_argument("--keep", type=Path, help="keep logs and records in this folder")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument(
        "--report", action="store_true", help=f"… to {RESULTS.name} and {PAGE.name}"
    )
    parser.add_argument("--draw", type=Path, help="only draw the page from this report")
    options = parser.parse_args(arguments)
    if options.draw:
        report.draw(json.loads(options.draw.read_text()), PAGE)
        return 0
    # Lost connections are what this is about.
    logging.getLogger("headrace").setLevel(logging.CRITICAL)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        return asyncio.run(_main(options))
    print("stopped, and cleared away")
    return 130


async def _main(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    folder = options.keep or Path(tempfile.mkdtemp(prefix="headrace-rounds-"))
    network = networks.best(loopback=options.loopback)
    print(f"seed {seed}, {network.kind}" + (f" ({network.why})" if network.why else ""))
    fleet = Fleet(folder, network=network)
    try:
        await fleet.start()
        campaign = Campaign(fleet, seed=seed)
        try:
            found = await rounds(campaign, options)
        finally:
            campaign.close()
    finally:
        await fleet.close()
        network.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        report.write(found, options.json)
    if options.report:
        report.write(found, RESULTS)
        report.draw(found, PAGE)
    print(report.table(found))
    return 1 if campaign.violations else 0


async def rounds(campaign: Campaign, options: argparse.Namespace) -> dict[str, Any]:
    """Do all rounds, printing a line for each; returns the report."""
    can, cannot = possible(campaign.fleet)
    for name, why in cannot.items():
        print(f"not possible here: {name}: {why}")
    can = [n for n in can if not options.only or any(part in n.name for part in options.only)]
    begun = time.monotonic()
    async with await campaign.client() as client:
        await campaign.begin(client)
        for number, nemesis in enumerate(campaign.order(options.rounds, can), 1):
            if time.monotonic() - begun > options.minutes * 60:
                print(f"{options.minutes} minutes are over")
                break
            row = await campaign.round(client, number, nemesis)
            if number % COMPARE_EACH == 0:
                row.violations += await campaign.compare()
            print(told(row), flush=True)
            for violation in row.violations[:SHOWN_VIOLATIONS_MAX]:
                print(f"     {' '.join(violation)[:SHOWN_CHARACTERS_MAX]}", file=sys.stderr)
        await campaign.finish(client)
    for violation in campaign.final[:SHOWN_VIOLATIONS_MAX]:
        told_so = f"at the end: {' '.join(violation)}"
        print(told_so[:SHOWN_CHARACTERS_MAX], file=sys.stderr)
    took_s = time.monotonic() - begun
    return report.document(campaign, asked=options.rounds, took_s=took_s, cannot=cannot)


def told(row: Row) -> str:
    """Return a line about one round."""

    def seconds(value: float | None) -> str:
        return "never" if value is None else f"after {value:.2f} s"

    verdict = "ok" if not row.violations else f"{len(row.violations)} VIOLATIONS"
    return (
        f"{row.number:4} {verdict}: {row.did}; {row.runs} runs, {row.acknowledged} acknowledged, "
        f"{row.unknown} unknown, {row.again} again; submits back {seconds(row.submit_pause_s)}, "
        f"steps {seconds(row.step_pause_s)}; whole in {row.whole_s:.1f} s, settled in "
        f"{row.settle_s:.1f} s"
    )
