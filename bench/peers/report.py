"""Writes the part of docs/benchmarks.md that compares systems, from the results of a run.

`python -m bench.peers --report` writes it again from bench/results/peers.json. Only what stands
between the two marks is touched.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.facts import others_text, was_busy
from bench.page import BENCHMARKS, spliced
from bench.peers.targets import OURS, Figures, verdicts

ROOT = Path(__file__).resolve().parents[2]
PAGE = BENCHMARKS
PICTURES = ROOT / "docs" / "benchmarks"
RESULTS = ROOT / "bench" / "results" / "peers.json"
BEGIN = "<!-- peers: written by python -m bench.peers; do not edit -->"
END = "<!-- /peers -->"

EMPTY_PAGE = f"""# Benchmarks

What was measured, by which command, on which machine. Misses are named as misses.

## Against other systems

{BEGIN}
{END}
"""

WORKLOADS = {
    "W1": "one run of one step at a time, from submit to result, nothing else going on",
    "W2": "200 runs at the same time, each a chain of 10 steps, submitted together and awaited",
    "W3": "one run that fans out to 1,000 steps and joins them",
    "W4": "10,000 runs of one step, submitted as fast as they are taken, until the last result",
    "W5": "chains of 10 without end, 40 at the same time (Prefect 8); `kill -9` of the worker with "
    "all that it started, which is started again after 1 s",
}


def pictures(document: Mapping[str, Any]) -> list[str]:
    """Return the names of the pictures of a run: files in docs/benchmarks/, without `.png`."""
    return ["systems", *(["open-loop"] if document["ours"].get("open_loop") else [])]


def render(document: Mapping[str, Any]) -> str:
    """Return the Markdown of a run."""
    figures = Figures(document)
    parts = [
        _heading(document),
        _targets(document),
        "### Measured\n",
        _measured(figures),
        *(f"![{name}](benchmarks/{name}.png)\n" for name in pictures(document)),
        "### The loss of a worker\n",
        _loss(figures),
        "### Ours alone\n",
        _ours(document),
        "### What differs\n",
        _differences(document),
    ]
    return "\n".join(part for part in parts if part)


def write(document: Mapping[str, Any], *, page: Path = PAGE) -> None:
    """Write the page's part."""
    text = page.read_text(encoding="utf-8") if page.exists() else EMPTY_PAGE
    page.write_text(spliced(text, "peers", render(document)), encoding="utf-8")


def _heading(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    rounds = [len(facts["rounds"]) for facts in document["systems"].values() if facts["rounds"]]
    size = "`python -m bench.peers --quick`" if document["quick"] else "`python -m bench.peers`"
    lines = [
        f"Printed by {size} on {machine['time'][:10]}, in {document['minutes']:.0f} minutes: "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}; "
        f"{others_text(machine)}.",
        "",
        f"Rounds: {max(rounds, default=0)}, interleaved: each round measures every system once, "
        "one after the other, on freshly started processes with empty data folders; the others "
        "do not run meanwhile. Figures are medians over the rounds, with the least and the most.",
        "",
    ]
    if was_busy(machine):
        lines += ["**The machine was busy with other things: these figures say little.**", ""]
    lines += [f"- **{name}**: {text}." for name, text in WORKLOADS.items()]
    return "\n".join(lines) + "\n"


def _targets(document: Mapping[str, Any]) -> str:
    lines = ["### Targets\n", "| target | measured | |", "|---|---|---|"]
    words = {True: "met", False: "**missed**", None: "not measured"}
    for verdict in verdicts(document):
        told = words[verdict.met] + (f": {verdict.reason}" if verdict.reason else "")
        measured = verdict.measured if verdict.met is not None else "–"
        lines.append(f"| {verdict.target} | {measured} | {told} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], shape: str = ",.0f") -> str:
    if not values:
        return "–"
    middle = format(statistics.median(values), shape)
    if len(values) == 1:
        return middle
    return f"{middle} ({format(min(values), shape)} to {format(max(values), shape)})"


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


ROWS = (
    ("W1 p50, ms", "W1", "p50_ms", ",.2f"),
    ("W1 p99, ms", "W1", "p99_ms", ",.2f"),
    ("W2, steps/s", "W2", "steps_per_s", ",.0f"),
    ("W2, CPU µs a step", "W2", "cpu_us_per_step", ",.0f"),
    ("W3, ms", "W3", "ms", ",.0f"),
    ("W3, CPU µs a step", "W3", "cpu_us_per_step", ",.0f"),
    ("W4, runs/s", "W4", "runs_per_s", ",.0f"),
    ("W4, CPU µs a run", "W4", "cpu_us_per_step", ",.0f"),
    ("idle, MB (PSS)", "idle", "pss_mb", ",.0f"),
    ("idle, % of a core", "idle", "cpu_percent", ",.1f"),
    ("after W2, MB (PSS)", "memory", "loaded_mb", ",.0f"),
    ("start to first result, s", "start", "start_s", ",.1f"),
)


def _values(figures: Figures, system: str, workload: str, figure: str) -> list[float]:
    rounds = figures.document["systems"][system]["rounds"]
    if figure == "loaded_mb":
        return [one["loaded_pss_mb"] for one in rounds if "loaded_pss_mb" in one]
    if figure == "start_s":
        return [one["start_s"] for one in rounds if "start_s" in one]
    if figure == "cpu_percent":
        return [share * 100 for share in figures.values(system, "idle", "cpu_share")]
    return figures.values(system, workload, figure)


def _measured(figures: Figures) -> str:
    names = list(figures.document["systems"])
    lines = [
        "| | " + " | ".join(figures.title(name) for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for title, workload, figure, shape in ROWS:
        cells = [_spread(_values(figures, name, workload, figure), shape) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        "CPU is that of all processes of a system: servers, workers, client, and what they "
        "started. The client is not part of idle memory unless the system runs within it."
    )
    smaller = _smaller(figures)
    if smaller:
        lines += ["", "Less than the full size, so that the run ends in time: " + smaller + "."]
    return "\n".join(lines) + "\n"


def _smaller(figures: Figures) -> str:
    """Tell where a system got less than the workload says; its rate is computed from that."""
    said = []
    for name in figures.document["systems"]:
        for workload, figure, full, what in (
            ("W2", "runs", 200, "runs in W2"),
            ("W3", "width", 1_000, "steps in W3"),
            ("W4", "runs", 10_000, "runs in W4"),
        ):
            value = figures.median(name, workload, figure)
            if value is not None and value < full:
                said.append(f"{figures.title(name)} {value:,.0f} {what}")
    return ", ".join(said)


def _loss(figures: Figures) -> str:
    names = list(figures.document["systems"])
    rows = (
        ("runs at the same time", "at_once", ",.0f"),
        ("pause, kill to the next step, s", "pause_s", ",.2f"),
        ("interrupted runs", "interrupted", ",.0f"),
        ("kill to the last step of the last of them, s", "interrupted_done_s", ",.2f"),
        ("steps begun in all", "steps_begun", ",.0f"),
        ("steps run twice", "twice", ",.0f"),
        ("runs that never ended", "lost", ",.0f"),
    )
    lines = [
        "The steps themselves write down that they begin, in a file that outlives the kill: what "
        "is told here does not depend on what a system says of itself. The second in which there "
        "is no worker is part of the pause.",
        "",
        "| W5 | " + " | ".join(figures.title(name) for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for title, figure, shape in rows:
        cells = [_spread(figures.values(name, "W5", figure), shape) for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ours(document: Mapping[str, Any]) -> str:
    ours = document.get("ours", {})
    lines = []
    if idle := ours.get("idle"):
        parts = ", ".join(f"{name} {value:.0f}" for name, value in idle["processes"].items())
        lines.append(
            f"Idle: {idle['pss_mb']:.0f} MB (PSS; {parts}); the coordinator takes "
            f"{idle['coordinator_cpu_share'] * 100:.2f} % of a core, broker and worker with it "
            f"{idle['cpu_share'] * 100:.2f} %."
        )
    if start := ours.get("start"):
        shown = ", ".join(f"{value:.2f}" for value in start["seconds"])
        lines.append(
            f"`flowctl dev --run FILE`, from the command to the end of a one-step run: {shown} s."
        )
    if loads := ours.get("open_loop"):
        lines += [
            "",
            "Open loop: chains of 10 submitted at a fixed rate, whatever comes back, and a run of "
            "one step beside them every 50 ms or so. W2 is the lockstep shape, W4 that of one "
            "step each with 1,600 runs at the same time.",
            "",
            "| offered, steps/s | done in time, steps/s | turned away, runs | "
            "backlog at the end, runs | cores used | "
            "one step beside it: p50, ms | p99, ms | CPU µs a step |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {one['offered']:,} | {one['done']:,.0f} | {one.get('turned_away_runs', 0):,} | "
            f"{one['backlog_runs']:,} | "
            f"{one['cores']:.2f} | {_known(one['probe_p50_ms'])} | {_known(one['probe_p99_ms'])} | "
            f"{one['cpu_us_per_step']:,.0f} |"
            for one in loads
        ]
    for part, error in ours.get("errors", {}).items():
        lines.append(f"\nNot measured, {part}: {error.splitlines()[0]}")
    return "\n".join(lines) + "\n" if lines else "Not measured.\n"


def _differences(document: Mapping[str, Any]) -> str:
    lines = []
    for name, facts in document["systems"].items():
        versions = ", ".join(f"{what} {version}" for what, version in facts["versions"].items())
        title = facts["title"] + (" (ours)" if name == OURS else "")
        if facts.get("absent"):
            lines.append(f"- **{title}** was not measured: {facts['absent']}")
            continue
        settings = "; ".join(f"{what}: {value}" for what, value in facts["settings"].items())
        lines.append(
            f"- **{title}**: {versions}. Settings: {settings}. " + " ".join(facts["notes"])
        )
        for number, one in enumerate(facts["rounds"], 1):
            for part, error in one["errors"].items():
                lines.append(f"  - failed in round {number}, {part}: {error.splitlines()[0][:160]}")
    return "\n".join(lines) + "\n"
