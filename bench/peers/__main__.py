"""``python -m bench.peers``: W1 to W5 of all systems, one after the other, and a report.

Needs the standard library only: everything else is installed into a cache folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.facts import Others, machine
from bench.page import draw
from bench.peers import install, report
from bench.peers.own import measure_own
from bench.peers.rounds import measure_round
from bench.peers.systems import SYSTEMS, System
from bench.peers.targets import verdicts

WORKLOADS = ("W1", "W2", "W3", "W4", "W5")
MINUTES, QUICK_MINUTES = 20.0, 5.0
ROUNDS, QUICK_ROUNDS = 3, 1
OWN_S, QUICK_OWN_S = 110.0, 60.0
"""What is kept for the figures of ours alone, of the minutes of a run."""


def prepare(kinds: Sequence[type[System]]) -> dict[str, dict[str, Any]]:
    """Install what is missing; return each system's facts, `absent` where it is not to be had."""
    systems: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        facts: dict[str, Any] = {
            "title": kind.title,
            "durable": kind.durable,
            "notes": kind.notes,
            "versions": {},
            "settings": kind.settings(),
            "rounds": [],
        }
        try:
            kind.install()
            facts["versions"] = kind.versions()
        except (install.NotInstalled, OSError, subprocess.SubprocessError) as error:
            facts["absent"] = str(error)
            say(f"{kind.title} is not measured: {error}")
        else:
            say(f"{kind.title}: {facts['versions']} {facts['settings']}")
        systems[kind.name] = facts
    return systems


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the rounds, as many as there is time for; return the document of the results."""
    kinds = [kind for kind in SYSTEMS if kind.name in options.systems]
    facts, others = machine(), Others()
    systems = prepare(kinds)
    begun = time.monotonic()
    own_s = QUICK_OWN_S if options.quick else OWN_S
    kept_s = own_s if "headrace" in options.systems else 0.0
    until = begun + options.minutes * 60 - kept_s
    for number in range(1, options.rounds + 1):
        for kind in kinds:
            rounds = systems[kind.name]["rounds"]
            if "absent" in systems[kind.name]:
                continue
            if time.monotonic() + max((one["took_s"] for one in rounds), default=0) > until:
                say(f"no time for round {number} of {kind.title}")
                continue
            place = folder / f"{kind.name}-{number}"
            figures = measure_round(
                kind, place, options.workloads, quick=options.quick, until=until
            )
            rounds.append(figures)
            shutil.rmtree(place, ignore_errors=True)
            say(f"round {number}, {kind.title}: {json.dumps(_short(figures))}")
    ours = {}
    if kept_s and "absent" not in systems["headrace"]:
        ours = measure_own(folder / "own", quick=options.quick)
        say(f"ours alone: {json.dumps(ours)}")
    return {
        "version": 1,
        "quick": options.quick,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "machine": facts | {"others_cores": others.cores()},
        "systems": systems,
        "ours": ours,
    }


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in figures.items() if k not in {"idle"}}


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def rounded(value: Any) -> Any:
    """Return *value* with its numbers cut to what means something."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def write_report(results: Path) -> None:
    """Write the page from *results*; pictures are drawn where there is matplotlib.

    The page belongs to the results in the repository: from others it is only printed.
    """
    document = json.loads(results.read_text(encoding="utf-8"))
    if results.resolve() != report.RESULTS:
        print(report.render(document))
        return
    draw("bench.peers.plots", document, report.PICTURES)
    report.write(document)
    for verdict in verdicts(document):
        word = {True: "met", False: "MISSED", None: "not measured"}[verdict.met]
        print(f"{word:13} {verdict.target}: {verdict.measured} {verdict.reason}")


def drawing_python() -> str:
    """Return a Python that has matplotlib, if one was installed."""
    try:
        return str(install.own_environment())
    except install.NotInstalled:
        return sys.executable


def parse() -> argparse.Namespace:
    """Parse the command line."""
    names = [kind.name for kind in SYSTEMS]
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), metavar="W1 … W5")
    parser.add_argument("--quick", action="store_true", help="one small round, 5 minutes at most")
    parser.add_argument("--systems", default=",".join(names), help="separated by commas")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, quick {QUICK_ROUNDS}")
    parser.add_argument("--minutes", type=float, help="no round is begun that would end later")
    parser.add_argument("--json", type=Path, default=report.RESULTS, help="where results go")
    parser.add_argument("--install", action="store_true", help="only install what is missing")
    parser.add_argument("--report", action="store_true", help="only write the page, from --json")
    options = parser.parse_args()
    options.systems = [name for name in options.systems.split(",") if name]
    for given, known in ((options.systems, names), (options.workloads, WORKLOADS)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(known)}")
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    options.minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    return options


def main() -> int:
    """Install, measure, write; exits with 0 also when targets are missed."""
    options = parse()
    if options.report:
        write_report(options.json)
        return 0
    if options.install:
        facts = prepare([kind for kind in SYSTEMS if kind.name in options.systems])
        return int(any("absent" in one for one in facts.values()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="headrace-peers-", ignore_cleanup_errors=True) as name:
        # A database server that may not run as root must reach its own folder in there.
        Path(name).chmod(0o711)
        document = measure(options, Path(name))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(document), indent=1, ensure_ascii=False)
    options.json.write_text(text + "\n", encoding="utf-8")
    command = [drawing_python(), "-m", "bench.peers", "--report", "--json", options.json.absolute()]
    environment = install.clean_environment(PYTHONPATH=str(install.ROOT))
    return subprocess.run(command, cwd=install.ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
