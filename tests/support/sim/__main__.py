"""One world, told; or many, quickly; or one process killed at each of its steps.

A world that goes wrong is made smaller while it still does, and its story is told in short with the
command that lives through it again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.facts import processor

from support.sim import report
from support.sim.batch import Finding, Sums, begin, explain, quiet, run_many, run_some, steps_of
from support.sim.chaos import PROFILES
from support.sim.mishaps import MISHAPS
from support.sim.recipe import Recipe
from support.sim.world import World

SHOWN_MAX = 3
SAY_S = 60.0


def _names(text: str) -> frozenset[str]:
    return frozenset(name for name in text.split(",") if name)


def _kinds(text: str) -> frozenset[str]:
    unknown = _names(text) - MISHAPS.keys()
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(sorted(MISHAPS))}"
        )
    return _names(text)


def _kill(text: str) -> tuple[str, int]:
    name, _, step = text.partition(":")
    return name, int(step)


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Return the command line, understood."""
    parser = argparse.ArgumentParser(prog="python -m support.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first world")
    parser.add_argument("--count", type=int, default=1, help="how many worlds")
    parser.add_argument("--minutes", type=float, default=0.0, help="as many as fit, from --seed on")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one a core)")
    parser.add_argument("--first", action="store_true", help="stop at the first bad world")
    parser.add_argument("--json", type=Path, help="write what came of it to this file")
    parser.add_argument(
        "--report", action="store_true", help="write it to bench/results and docs/reliability.md"
    )
    parser.add_argument("--story", action="store_true", help="tell all of one world")
    parser.add_argument("--no-shrink", action="store_true", help="bad worlds as they are")
    parser.add_argument("--profile", default="", choices=["", "all", *PROFILES])
    parser.add_argument("--only", type=_kinds, default=frozenset(), help="these faults alone")
    parser.add_argument("--never", type=_kinds, default=frozenset(), help="none of these faults")
    parser.add_argument("--omit", type=_names, default=frozenset(), help="parts to leave out")
    parser.add_argument("--kill", type=_kill, default=("", 0), metavar="PROCESS:STEP")
    parser.add_argument("--kill-each", default="", metavar="PROCESS", help="at each of its steps")
    parser.add_argument("--stride", type=int, default=1, help="with --kill-each: every so many")
    return parser.parse_args(arguments)


def _recipe(options: argparse.Namespace, seed: int) -> Recipe:
    return Recipe(seed, options.profile, options.omit, options.only, options.never, options.kill)


def one_world(recipe: Recipe, *, story: bool) -> int:
    """Live through one world and tell it."""
    quiet(story=story)
    world = World(recipe, story=story)
    violations = world.run()
    for line in world.story or ():
        print(line)
    if violations:
        print(Finding(recipe, world.profile, violations[0]).line())
        if not story:
            print(explain(recipe))
        return 1
    print(
        f"seed {recipe.seed} ({world.profile}): fine, {world.loop.now_s:.1f} virtual seconds, "
        f"{world.loop.callbacks} callbacks, {len(world.record.executions)} steps ran"
    )
    print(f"  befell it: {dict(sorted(world.tally.items()))}")
    return 0


def recipes(options: argparse.Namespace) -> Iterator[Recipe]:
    """Return the worlds that are asked for, each when it is needed."""
    if options.kill_each:
        quiet(story=False)
        name = options.kill_each
        steps = steps_of(_recipe(options, options.seed), name)
        print(f"{name} does {steps} steps in world {options.seed}")
        for step in range(1, steps + 1, options.stride):
            yield _recipe(options, options.seed)._replace(kill=(name, step))
        return
    until_s = time.monotonic() + options.minutes * 60
    seed = options.seed
    while time.monotonic() < until_s if options.minutes else seed < options.seed + options.count:
        yield _recipe(options, seed)
        seed += 1


def many_worlds(options: argparse.Namespace) -> int:
    """Live through many worlds; say what happened in them, and why some were bad."""
    sums, began = Sums(), time.monotonic()
    said_s = began
    wanted = recipes(options)
    if options.jobs == 1:
        begin()
        pieces: Iterator[Sums] = iter([run_some(wanted, first=options.first)])
    else:
        pieces = run_many(wanted, processes=options.jobs, first=options.first)
    for piece in pieces:
        sums.merge(piece)
        for finding in piece.findings:
            print(finding.line(), flush=True)
        if time.monotonic() - said_s > SAY_S:
            said_s = time.monotonic()
            print(f"{sums.worlds} worlds, {len(sums.findings)} bad", file=sys.stderr, flush=True)
    took_s = time.monotonic() - began
    facts = sums.facts() | {
        "first_seed": options.seed,
        "next_seed": options.seed + sums.worlds,
        "seconds": round(took_s, 1),
        "cores": os.cpu_count(),
        "machine": processor(),
        "python": platform.python_version(),
        "command": " ".join(["python -m support.sim", *sys.argv[1:]]),
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    if options.report:
        report.write(facts)
    if not options.first:
        print("\n".join(sums.tally.table()))
    if not options.no_shrink:
        for finding in sums.findings[:SHOWN_MAX]:
            print(explain(finding.recipe), flush=True)
    print(
        f"{sums.worlds} worlds, {len(sums.findings)} bad, {took_s:.1f} s, "
        f"{facts['cpu_ms_per_world']} ms CPU each; the next seed is {facts['next_seed']}"
    )
    return 1 if sums.findings else 0


def main() -> int:
    """Run worlds; 1 when something was violated."""
    options = parsed(sys.argv[1:])
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of names is part of what a seed decides.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "support.sim", *sys.argv[1:]])
    if options.count == 1 and not options.minutes and not options.kill_each:
        return one_world(_recipe(options, options.seed), story=options.story)
    return many_worlds(options)


if __name__ == "__main__":
    raise SystemExit(main())
