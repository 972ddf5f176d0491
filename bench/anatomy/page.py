"""The tables of docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

_NAMES = {"nats-0": "broker", "coordinator-0": "coordinator", "worker-0": "worker"}
IMAGE = "![where each microsecond goes](benchmarks/anatomy.png)"
_TARGET_CORES, _TARGET_P50_MS, _TARGET_P99_MS = 1.5, 5.0, 15.0


def rows(document: dict[str, Any]) -> list[str]:
    """Return the part of the page that *document* says."""
    facts, results = document["machine"], document["results"]
    return [
        f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, nats-server "
        f"{facts['nats_server']}, {facts['time']}; one coordinator, one worker with 256 slots, one "
        "broker that fsyncs each append, SQLite archive, event feed; client on the same machine.",
        "",
        *_processes(results),
        "",
        IMAGE,
        "",
        *_stages(results),
        "",
        *_open(results["open"]),
        "",
        *_idle(results["idle"]),
    ]


def _processes(results: dict[str, Any]) -> list[str]:
    lines = [
        "| µs CPU a step | W2, lockstep | W4, one-step runs |",
        "|---|---|---|",
    ]
    pair = [results["W2"], results["W4"]]
    for name in pair[0]["cpu_us_per_step"]:
        shown = _NAMES.get(str(name), str(name))
        lines.append(_row(shown, [f"{one['cpu_us_per_step'][name]:.1f}" for one in pair]))
    lines.append(_row("**all**", [f"**{sum(o['cpu_us_per_step'].values()):.1f}**" for o in pair]))
    lines += [
        _row("steps a second", [f"{one['steps_per_s']:,.0f}" for one in pair]),
        _row("steps an append", [f"{one['steps_per_append']:.0f}" for one in pair]),
        _row("tasks a message", [f"{one['tasks_per_message']:.0f}" for one in pair]),
        _row(
            "messages a step, into and out of the broker",
            [f"{o['per_step']['in_msgs']:.2f}, {o['per_step']['out_msgs']:.2f}" for o in pair],
        ),
        _row(
            "bytes a step, into and out of the broker",
            [f"{o['per_step']['in_bytes']:.0f}, {o['per_step']['out_bytes']:.0f}" for o in pair],
        ),
    ]
    for name in ("nats-0", "coordinator-0", "worker-0"):
        sleeps = [f"{one['wakes_per_step'][name] * 1_000:.0f}" for one in pair]
        lines.append(_row(f"wake-ups of the {_NAMES[name]} in 1,000 steps", sleeps))
    return lines


def stage_us(workload: dict[str, Any], name: str) -> dict[str, float]:
    """Return what a step costs in each stage of a process, in µs of its main thread."""
    main_us = float(workload["cpu_us_per_step"][name] - workload["other_threads_us_per_step"][name])
    return {stage: main_us * share for stage, share in workload["shares"][name].items()}


def _stages(results: dict[str, Any]) -> list[str]:
    lines = [
        "How the interpreter's time divides (py-spy, samples that hold its lock; threads apart):",
        "",
        "| process, stage | W2, µs a step | W4, µs a step |",
        "|---|---|---|",
    ]
    pair = [results["W2"], results["W4"]]
    for name in pair[0]["shares"]:
        stages = list(dict.fromkeys([*pair[0]["shares"][name], *pair[1]["shares"][name]]))
        for stage in stages:
            cells = [f"{stage_us(one, name).get(stage, 0.0):.2f}" for one in pair]
            lines.append(_row(f"{_NAMES[name]}: {stage}", cells))
        threads = [f"{one['other_threads_us_per_step'][name]:.2f}" for one in pair]
        lines.append(_row(f"{_NAMES[name]}: other threads (archive)", threads))
    return lines


def _open(loads: list[dict[str, Any]]) -> list[str]:
    lines = [
        "Open loop, runs of 10 steps, with single-step runs beside it (targets at 20,000 steps/s: "
        f"{_TARGET_CORES} cores, p50 {_TARGET_P50_MS:.0f} ms, p99 {_TARGET_P99_MS:.0f} ms):",
        "",
        "| steps/s | cores, all processes | one-step run p50 | p99 | run of 10 steps p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for load in loads:
        late = load["batches_behind_at_end"]
        note = f" ({late} batches behind at the end)" if late > 5 else ""
        cells = [f"{load['cores']['all']:.2f}"]
        for name in ("probe_p50_ms", "probe_p99_ms", "run_p50_ms", "run_p99_ms"):
            cells.append(f"{load[name]:.1f} ms")
        lines.append(_row(f"{load['steps_per_s']:,}{note}", cells))
    return lines


def _idle(idle: dict[str, Any]) -> list[str]:
    memory = idle["pss_mb"]
    lines = [
        "Idle (targets: coordinator at most 2 % of a core, all three at most 120 MB):",
        "",
        "| process | % of a core | PSS |",
        "|---|---|---|",
    ]
    for name, megabytes in memory.items():
        share = idle["cores"][name] * 100
        lines.append(
            _row(_NAMES.get(str(name), str(name)), [f"{share:.1f}", f"{megabytes:.0f} MB"])
        )
    lines.append(_row("all", ["", f"{sum(memory.values()):.0f} MB"]))
    return lines


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"
