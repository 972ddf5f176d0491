"""The report: rounds as JSON, and the table of `docs/reliability.md` that is drawn from it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from bench.facts import machine
from bench.page import splice

from support.rounds.campaign import Campaign, Row

SHOWN_VIOLATIONS_MAX = 20
SHOWN_CHARACTERS_MAX = 300


def document(
    campaign: Campaign, *, asked: int, took_s: float, cannot: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that is known of a campaign, as JSON."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "seed": campaign.seed,
        "network": campaign.fleet.network.kind,
        "load_at_begin": campaign.load_at_begin,
        "scheduled_runs": campaign.scheduled,
        "asked": asked,
        "took_s": round(took_s, 1),
        "not_possible": dict(cannot),
        "rounds": [msgspec.to_builtins(row) for row in campaign.rows],
        "final_violations": [list(violation) for violation in campaign.final],
    }


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(document: Mapping[str, Any], page: Path) -> None:
    """Put the table into the page, between the marks. Raises `ValueError` without marks."""
    splice(page, "rounds", table(document))


def table(document: Mapping[str, Any]) -> str:
    """Return the part of the page: what ran where, a line for each nemesis, what was broken."""
    rows = [msgspec.convert(row, Row) for row in document["rounds"]]
    facts = document["machine"]
    violations = [v for row in rows for v in row.violations]
    violations += [tuple(v) for v in document["final_violations"]]
    lines = [
        f"{len(rows)} rounds of {document['asked']} asked for, seed {document['seed']}, in "
        f"{document['took_s'] / 60:.1f} minutes, ended {document['time']}: **{len(violations)} "
        f"violations**, {_sum(rows, 'acknowledged'):,} operations acknowledged, "
        f"{_sum(rows, 'unknown'):,} of unknown outcome, {_sum(rows, 'runs'):,} runs finished "
        f"and {document['scheduled_runs']:,} of a schedule, "
        f"{_sum(rows, 'executions'):,} executions of steps, {_sum(rows, 'again'):,} of them again "
        "after a loss.",
        "",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB, {facts['system']}, load "
        f"{document['load_at_begin']} before the begin; Python {facts['python']}, headrace "
        f"{facts['headrace']}, nats-server {facts['nats_server']}; {document['network']}.",
        "",
        "| nemesis | rounds | acknowledged | unknown | runs | again | violations "
        "| submits back, s | steps back, s | whole again, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(sorted(row.nemesis for row in rows)):
        lines.append(_line(name, [row for row in rows if row.nemesis == name]))
    lines.append(_line("**all**", rows))
    if document["not_possible"]:
        lines += ["", "Not possible on that machine:", ""]
        lines += [f"- {name}: {why}" for name, why in document["not_possible"].items()]
    if violations:
        lines += ["", "Violations:", ""]
        lines += [
            f"- {rule}: {run} {text}"[:SHOWN_CHARACTERS_MAX]
            for rule, run, text in violations[:SHOWN_VIOLATIONS_MAX]
        ]
    return "\n".join(lines) + "\n"


def _line(name: str, rows: Sequence[Row]) -> str:
    cells = [
        name,
        str(len(rows)),
        *(f"{_sum(rows, field):,}" for field in ("acknowledged", "unknown", "runs", "again")),
        str(sum(len(row.violations) for row in rows)),
        _range(row.submit_pause_s for row in rows),
        _range(row.step_pause_s for row in rows),
        _range(row.whole_s for row in rows),
    ]
    return f"| {' | '.join(cells)} |"


def _sum(rows: Iterable[Row], field: str) -> int:
    return sum(getattr(row, field) for row in rows)


def _range(values: Iterable[float | None]) -> str:
    """Return median / maximum; those that never came back are told."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    if not known:
        return "never" if listed else "-"
    never = f", {len(listed) - len(known)} never" if len(known) < len(listed) else ""
    return f"{statistics.median(known):.2f} / {max(known):.2f}{never}"
