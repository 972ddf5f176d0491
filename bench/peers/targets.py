"""What is aimed at, and whether the figures of a run reach it."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "headrace"
REASONS = Path(__file__).with_name("reasons.toml")


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured; `met` is None when it was not."""

    key: str
    target: str
    measured: str
    met: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Figures:
    """The results of a run, as `results.json` holds them."""

    document: Mapping[str, Any]

    def values(self, system: str, workload: str, figure: str) -> list[float]:
        """Return one value a round, of the rounds that have it."""
        rounds = self.document["systems"].get(system, {}).get("rounds", [])
        found = (one.get(workload, {}).get(figure) for one in rounds)
        return [value for value in found if value is not None]

    def median(self, system: str, workload: str, figure: str) -> float | None:
        """Return the median over the rounds; None: not measured."""
        values = self.values(system, workload, figure)
        return statistics.median(values) if values else None

    def peers(self, *, durable: bool = False) -> list[str]:
        """Return the names of the others; with *durable* those that keep every step."""
        systems = self.document["systems"].items()
        return [n for n, facts in systems if n != OURS and (facts["durable"] or not durable)]

    def title(self, system: str) -> str:
        """Return the name that people know a system by."""
        return str(self.document["systems"][system]["title"])

    def best(
        self, workload: str, figure: str, *, most: bool, among: Sequence[str]
    ) -> tuple[str, float] | None:
        """Return the best of *among* and its median."""
        found = [(name, self.median(name, workload, figure)) for name in among]
        known = [(name, value) for name, value in found if value is not None]
        if not known:
            return None
        return (max if most else min)(known, key=lambda pair: pair[1])

    def absence(self, system: str, workload: str) -> str:
        """Return why a system has no figure."""
        facts = self.document["systems"].get(system)
        if facts is None:
            return f"{system} was not asked for"
        if facts.get("absent"):
            return f"{facts['title']}: {facts['absent']}"
        for one in facts["rounds"]:
            for part, error in one["errors"].items():
                return f"{facts['title']} failed in {part}: {error.splitlines()[0][:120]}"
        return f"{facts['title']} has no figure for {workload}"


def _times(value: float) -> str:
    return f"{value:,.1f}×" if value < 10 else f"{value:,.0f}×"


def _faster(
    key: str, workload: str, figure: str, peer: str, factor: float
) -> Callable[[Figures], Verdict]:
    """At least *factor* times as many a second as *peer*."""

    def judge(figures: Figures) -> Verdict:
        title = figures.document["systems"].get(peer, {}).get("title", peer)
        target = f"{workload} steps/s ≥ {factor:g}× {title}"
        mine = figures.median(OURS, workload, figure)
        theirs = figures.median(peer, workload, figure)
        if mine is None or theirs is None:
            missing = OURS if mine is None else peer
            return Verdict(key, target, "not measured", None, figures.absence(missing, workload))
        ratio = mine / theirs
        return Verdict(key, target, _pair(ratio, mine, theirs, "steps/s"), ratio >= factor)

    return judge


def _against_best(
    key: str,
    text: str,
    workload: str,
    figure: str,
    factor: float,
    *,
    most: bool,
    unit: str,
    among: Callable[[Figures], Sequence[str]],
) -> Callable[[Figures], Verdict]:
    """At least *factor* times better than the best of some; *most*: more is better."""

    def judge(figures: Figures) -> Verdict:
        mine = figures.median(OURS, workload, figure)
        names = among(figures)
        best = figures.best(workload, figure, most=most, among=names)
        if mine is None or best is None:
            reasons = [figures.absence(n, workload) for n in ([OURS] if mine is None else names)]
            return Verdict(key, text, "not measured", None, "; ".join(reasons))
        name, theirs = best
        ratio = mine / theirs if most else theirs / mine
        measured = f"{_pair(ratio, mine, theirs, unit)} ({figures.title(name)})"
        return Verdict(key, text, measured, ratio >= factor)

    return judge


def _pair(ratio: float, mine: float, theirs: float, unit: str) -> str:
    def shown(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"

    return f"{_times(ratio)}: {shown(mine)} against {shown(theirs)} {unit}"


def _pause(figures: Figures) -> Verdict:
    target = "W5 pause ≤ the best of the others"
    mine = figures.median(OURS, "W5", "pause_s")
    best = figures.best("W5", "pause_s", most=False, among=figures.peers())
    if mine is None or best is None:
        return Verdict("W5-pause", target, "not measured", None)
    measured = f"{mine:.2f} s against {best[1]:.2f} s ({figures.title(best[0])})"
    return Verdict("W5-pause", target, measured, mine <= best[1])


def _twice(figures: Figures) -> Verdict:
    target = "W5 fewer steps run twice than any that runs lost steps again"
    mine = figures.median(OURS, "W5", "twice")
    # Who never takes up what a killed worker held runs nothing twice, and finishes nothing.
    again = [n for n in figures.peers() if figures.median(n, "W5", "lost") == 0]
    best = figures.best("W5", "twice", most=False, among=again)
    if mine is None or best is None:
        return Verdict("W5-twice", target, "not measured", None)
    measured = f"{mine:.0f} against {best[1]:.0f} ({figures.title(best[0])})"
    # Nobody can do better than none.
    return Verdict("W5-twice", target, measured, mine < best[1] or mine == 0)


def _lost(figures: Figures) -> Verdict:
    target = "W5 no run lost"
    values = figures.values(OURS, "W5", "lost")
    if not values:
        return Verdict("W5-lost", target, "not measured", None)
    return Verdict("W5-lost", target, f"{sum(values):.0f} in {len(values)} rounds", not sum(values))


def _own(
    key: str, text: str, path: Sequence[str], most: float, unit: str, scale: float = 1.0
) -> Callable[[Figures], Verdict]:
    """A figure of ours alone is at most *most*."""

    def judge(figures: Figures) -> Verdict:
        value: Any = figures.document.get("ours", {})
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is None:
            return Verdict(key, text, "not measured", None)
        return Verdict(key, text, f"{value * scale:,.2f} {unit}", value * scale <= most)

    return judge


def _everybody(figures: Figures) -> Sequence[str]:
    return figures.peers()


def _durable(figures: Figures) -> Sequence[str]:
    return figures.peers(durable=True)


def _celery(_figures: Figures) -> Sequence[str]:
    return ["celery"]


TARGETS: tuple[Callable[[Figures], Verdict], ...] = (
    _faster("W2-restate", "W2", "steps_per_s", "restate", 25),
    _faster("W2-celery", "W2", "steps_per_s", "celery", 100),
    _faster("W2-dbos", "W2", "steps_per_s", "dbos", 250),
    _against_best(
        "W1-celery", "W1 p50 ≤ 1/2 of Celery, which does not fsync", "W1", "p50_ms", 2,
        most=False, unit="ms", among=_celery,
    ),
    _against_best(
        "W1-durable", "W1 p50 ≤ 1/5 of the best durable system", "W1", "p50_ms", 5,
        most=False, unit="ms", among=_durable,
    ),
    _against_best(
        "W3", "W3 ≥ 20× faster than the best", "W3", "ms", 20,
        most=False, unit="ms", among=_everybody,
    ),
    _against_best(
        "W4", "W4 ≥ 30× the best", "W4", "runs_per_s", 30,
        most=True, unit="runs/s", among=_everybody,
    ),
    _pause,
    _twice,
    _lost,
    _own(
        "memory", "coordinator, worker and broker together, idle: ≤ 120 MB (PSS)",
        ("idle", "pss_mb"), 120, "MB",
    ),
    _own("start", "`flowctl dev` to its first result ≤ 2 s", ("start", "median_s"), 2, "s"),
    _own(
        "idle-cpu", "idle cost of a coordinator ≤ 2 % of a core",
        ("idle", "coordinator_cpu_share"), 2, "%", 100,
    ),
)  # fmt: skip


def verdicts(document: Mapping[str, Any]) -> list[Verdict]:
    """Judge every target; a miss has the reason that `reasons.toml` gives for it."""
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8"))
    figures = Figures(document)
    found = []
    for judge in TARGETS:
        verdict = judge(figures)
        if verdict.met is False:
            reason = reasons.get(verdict.key, "not looked into yet")
            verdict = Verdict(verdict.key, verdict.target, verdict.measured, False, reason)
        found.append(verdict)
    return found
