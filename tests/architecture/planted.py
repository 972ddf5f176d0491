"""Plants bugs, one at a time, and tells which layers of tests see them.

``python tests/architecture/planted.py [NAME…] [--list]``

The bugs are in `planted.toml`. Each is planted in a scratch copy of the tree, never in the
checkout; the layers that it names are run there with the interpreter that runs this. First the same
layers run without any bug. Exits with 1 when a bug turns no layer red, or when a layer is red
without a bug.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = Path(__file__).with_suffix(".toml")
LAYERS = ("unit", "property", "simulation", "conformance", "integration")
"""From the cheapest."""
COPIED = (
    *("common", "coordinator", "worker", "tests", "bench", "deploy", "docs", "examples"),
    *("pyproject.toml", "README.md"),
)
PATHS = ("common", "coordinator", "worker", "tests")
LAYER_TIMEOUT_S = 240.0
GREEN, RED, BROKEN = "green", "red", "broken"
Targets = tuple[str, ...]
"""What one layer runs: tests, or for the simulation how many worlds, and of which faults alone."""
CALM_WORLDS = 40
"""A bug that a fault reveals is not seen in so many worlds without any."""


class NotPlantable(Exception):
    """A bug's text is not in its file exactly once: the code has moved on, and the bug must too."""


@dataclass(frozen=True)
class Bug:
    """One planted bug."""

    name: str
    breaks: str
    file: str
    find: str
    replace: str
    layers: dict[str, Targets]

    @property
    def fault(self) -> str:
        """The faults, of the simulation, without which it is not seen."""
        simulation = self.layers.get("simulation", ())
        return simulation[1] if len(simulation) > 1 else ""

    def plant(self, root: Path) -> None:
        """Write the bug into the tree below *root*. Raises `NotPlantable`."""
        path = root / self.file
        path.write_text(self.planted(path.read_text()))

    def planted(self, source: str) -> str:
        """Return *source* with the bug. Raises `NotPlantable`."""
        count = source.count(self.find)
        if count != 1:
            raise NotPlantable(f"{self.name}: its text is {count} times in {self.file}, not once")
        return source.replace(self.find, self.replace)


@dataclass(frozen=True)
class Seen:
    """What one layer made of one tree."""

    color: str
    why: str = ""
    """Of a red one the first test, or world, that failed; of a broken one the end of its output."""


@dataclass
class Report:
    """One bug's line of the table."""

    bug: Bug
    layers: dict[str, Seen] = field(default_factory=dict)
    calm: Seen = field(default_factory=lambda: Seen(GREEN))
    """What worlds without faults made of it."""

    @property
    def seen(self) -> bool:
        """Tell whether a layer turned red."""
        return any(one.color == RED for one in self.layers.values())


def catalogue() -> list[Bug]:
    """Return all bugs."""
    bugs = []
    for entry in tomllib.loads(CATALOGUE.read_text())["bug"]:
        layers: dict[str, Targets] = {}
        for layer in LAYERS:
            if layer in entry:
                targets = entry.pop(layer)
                layers[layer] = _targets(targets)
        bugs.append(Bug(layers=layers, **entry))
    return bugs


def _targets(entry: Any) -> Targets:
    if isinstance(entry, dict):
        return (str(entry["worlds"]), str(entry["fault"]))
    return (str(entry),) if isinstance(entry, int) else tuple(map(str, entry))


# -- running ------------------------------------------------------------------------------------


class Runner:
    """Runs layers in trees, some at a time; `stop` ends what runs."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, root: Path, layer: str, targets: Targets) -> Seen:
        """Run one layer in the tree below *root*."""
        simulated = layer == "simulation"
        if simulated:
            command = ["-m", "support.sim", "--seed", "0", "--count", targets[0]]
            command += ["--first", "--jobs", "1", "--no-shrink", *targets[1:]]
        else:
            options = ("-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=line")
            command = ["-m", "pytest", *options, *targets]
        with (root / f"{layer}.out").open("w+") as output:
            code = self._child(root, command, output)
            output.seek(0)
            text = output.read()
        if code == 0:
            return Seen(GREEN)
        # A usage error or a failed import is not what the bug was planted for.
        marks = [
            line
            for line in text.splitlines()
            if line.startswith(("seed ", "FAILED tests/", "ERROR tests/"))
        ]
        if code == 1 and marks:
            return Seen(RED, marks[0])
        return Seen(BROKEN, f"exit {code}: {text[-1_500:]}")

    def _child(self, root: Path, command: Sequence[str], output: object) -> int:
        with self._lock:
            if self._stopped:
                return -1
            child = subprocess.Popen(
                [sys.executable, *command],
                cwd=root,
                env=environment(root),
                stdin=subprocess.DEVNULL,
                stdout=output,  # type: ignore[call-overload]
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._running.add(child)
        try:
            return child.wait(LAYER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            _end(child)
            with self._lock:
                self._running.discard(child)

    def stop(self) -> None:
        """End all that runs, and begin nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """End a child and what it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which Python finds the copy's packages before installed ones."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEADRACE_", "FLOWCTL_"))}
    paths = os.pathsep.join(str(root / name) for name in PATHS)
    # The order of sets of names is part of what a seed decides.
    return {**kept, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}


def copy_tree(source: Path, target: Path) -> None:
    """Copy what the tests need, with the times of files, so that compiled modules stay valid."""
    target.mkdir()
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(".*"))
        elif (source / name).exists():
            shutil.copy2(source / name, target / name)


def check_copy(root: Path) -> None:
    """Raise `AssertionError` unless Python takes every package from the copy."""
    modules = ("headrace.bus", "headrace.coordinator.core", "headrace.worker", "support.sim")
    code = f"import {', '.join(modules)}, sys; print(*(sys.modules[m].__file__ for m in {modules}))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    strange = [name for name in child.stdout.split() if not name.startswith(str(root))]
    assert not strange, f"not the copy's own: {strange}"


# -- the whole ----------------------------------------------------------------------------------


def together(bugs: Iterable[Bug]) -> dict[str, Targets]:
    """Return what all layers of *bugs* run: without a bug all of that must be green."""
    found: dict[str, Targets] = {}
    for bug in bugs:
        for layer, targets in bug.layers.items():
            known = found.get(layer, ())
            if layer == "simulation":
                found[layer] = (str(max(int(n) for n in (*known[:1], targets[0]))),)
            else:
                found[layer] = (*known, *(t for t in targets if t not in known))
    return found


def plant_and_run(runner: Runner, base: Path, bug: Bug) -> Report:
    """Plant one bug in a copy of *base*, run its layers, and remove the copy."""
    root = base.parent / bug.name
    copy_tree(base, root)
    try:
        bug.plant(root)
        report = Report(bug)
        for layer, targets in bug.layers.items():
            if bug.fault and layer == "simulation":
                calm = (str(CALM_WORLDS), "--profile", "calm")
                report.calm = runner.run(root, layer, calm)
                targets = (targets[0], "--only", bug.fault)
            report.layers[layer] = runner.run(root, layer, targets)
        return report
    finally:
        shutil.rmtree(root, ignore_errors=True)


def line_of(report: Report, width: int) -> str:
    """Return a bug's line of the table."""
    cells = [f"{report.layers[x].color if x in report.layers else '·':12}" for x in LAYERS]
    return f"{report.bug.name:{width}}  {''.join(cells)}".rstrip()


def run(bugs: Sequence[Bug], *, jobs: int) -> int:
    """Plant all *bugs* and print the table; return the exit code."""
    for bug in bugs:
        bug.planted((ROOT / bug.file).read_text())
    began = time.monotonic()
    width = max(len(bug.name) for bug in bugs)
    failed: list[str] = []
    runner = Runner()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-planted-") as scratch,
        ThreadPoolExecutor(jobs) as pool,
    ):
        base = Path(scratch) / "without"
        copy_tree(ROOT, base)
        check_copy(base)
        try:
            layers = together(bugs)
            without = pool.map(lambda layer: runner.run(base, layer, layers[layer]), layers)
            baseline = Report(
                Bug("without a bug", "", "", "", "", {}), dict(zip(layers, without, strict=True))
            )
            print(f"{'':{width}}  {''.join(f'{layer:12}' for layer in LAYERS)}".rstrip())
            print(line_of(baseline, width), flush=True)
            for layer, seen in baseline.layers.items():
                if seen.color != GREEN:
                    failed.append(f"{layer} is {seen.color} without a bug: {seen.why}")
            reports = pool.map(
                lambda bug: plant_and_run(runner, base, bug), bugs if not failed else ()
            )
            for report in reports:
                print(line_of(report, width), flush=True)
                failed += _complaints(report)
                for layer, seen in report.layers.items():
                    if seen.color == RED:
                        print(f"{'':{width}}    {layer}: {seen.why[:110]}", flush=True)
        except BaseException:
            runner.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    print(f"{len(bugs)} bugs in {time.monotonic() - began:.0f} s")
    for text in failed:
        print(text, file=sys.stderr)
    return 1 if failed else 0


def _complaints(report: Report) -> list[str]:
    found = [
        f"{report.bug.name}: {layer} is broken: {seen.why}"
        for layer, seen in report.layers.items()
        if seen.color == BROKEN
    ]
    if report.calm.color != GREEN:
        found.append(f"{report.bug.name} is seen without {report.bug.fault}: {report.calm.why}")
    if not report.seen:
        found.append(
            f"{report.bug.name} turns nothing red: a test is missing ({report.bug.breaks})"
        )
    return found


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these bugs")
    parser.add_argument("--list", action="store_true", help="list the bugs, run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="bugs at a time (default: 2)")
    options = parser.parse_args()
    bugs = {bug.name: bug for bug in catalogue()}
    unknown = [name for name in options.names if name not in bugs]
    if unknown:
        parser.error(f"no such bug: {', '.join(unknown)} (see --list)")
    chosen = [bugs[name] for name in options.names] or list(bugs.values())
    if options.list:
        for bug in chosen:
            print(f"{bug.name}: {bug.breaks} [{', '.join(bug.layers)}]")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(chosen, jobs=max(options.jobs, 1))
    except NotPlantable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
