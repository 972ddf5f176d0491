"""What a large run found, as part of `docs/reliability.md`: written from its JSON, by machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.page import spliced

from support.sim.tally import HAPPENINGS

ROOT = Path(__file__).resolve().parents[3]
RESULT = ROOT / "bench" / "results" / "simulation.json"
PAGE = ROOT / "docs" / "reliability.md"


def part(facts: dict[str, Any]) -> str:
    """Return the lines of the page."""
    first, after = facts["first_seed"], facts["next_seed"]
    lines = [
        f"`{facts['command']}`: {facts['worlds']:,} worlds (seeds {first} to {after - 1}), "
        f"**{facts['bad']} bad**.",
        f"{facts['seconds']:,.0f} s on {facts['cores']} cores, {facts['cpu_ms_per_world']:g} ms of "
        f"CPU a world ({facts['machine']}, Python {facts['python']}).",
        f"In them {facts['runs']:,} runs, {facts['steps']:,} executions of steps, "
        f"{facts['log_entries']:,} log entries, {facts['virtual_seconds'] / 3600:,.1f} hours of "
        "virtual time.",
        "",
        "| what happened | times | in worlds |",
        "|---|---:|---:|",
    ]
    for name, meaning in HAPPENINGS.items():
        times, worlds = facts["happened"].get(name, 0), facts["worlds_with"].get(name, 0)
        lines.append(f"| {meaning} | {times:,} | {worlds:,} |")
    if facts["findings"]:
        lines += ["", "Bad worlds:", "", *(f"- {text}" for text in facts["findings"])]
    return "\n".join(lines) + "\n"


def filled(page: str, facts: dict[str, Any]) -> str:
    """Return *page* with its part about the worlds."""
    return spliced(page, "worlds", part(facts))


def write(facts: dict[str, Any]) -> None:
    """Keep a result, and show it on the page."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), facts))
