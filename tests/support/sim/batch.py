"""Many worlds in child processes, where the order of sets of names is the same every time."""

from __future__ import annotations

import gc
import hashlib
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from support.sim.features import known
from support.sim.recipe import Recipe
from support.sim.shrink import shrink
from support.sim.tally import Tally
from support.sim.world import World

CHUNK = 50
STORY_LINES = 70


class Finding(NamedTuple):
    """A world in which something was violated."""

    recipe: Recipe
    profile: str
    violation: str

    def line(self) -> str:
        """Return it for a list."""
        return f"seed {self.recipe.seed} ({self.profile}): {self.violation}"


@dataclass
class Sums:
    """What came of many worlds."""

    worlds: int = 0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    callbacks: int = 0
    steps: int = 0
    """Steps of runs that really ran."""
    runs: int = 0
    entries: int = 0
    """Of shard logs."""
    profiles: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)
    used: Tally = field(default_factory=Tally)
    """What the worlds were made of (`features`)."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, world: World, violations: list[str]) -> None:
        """Count a world that has been lived through."""
        self.worlds += 1
        self.virtual_s += world.loop.now_s
        self.callbacks += world.loop.callbacks
        self.steps += len(world.record.executions)
        for shard in world.oracle.shards.values():
            self.runs += len(shard.runs)
            self.entries += len(shard.entries)
        self.profiles[world.profile] += 1
        self.tally.add(world.tally)
        self.used.add(world.used)
        if violations:
            self.findings.append(Finding(world.recipe, world.profile, violations[0]))

    def merge(self, other: Sums) -> None:
        """Count what another process has counted."""
        for name in ("worlds", "cpu_s", "virtual_s", "callbacks", "steps", "runs", "entries"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.profiles.update(other.profiles)
        self.tally.merge(other.tally.times, other.tally.worlds)
        self.used.merge(other.used.times, other.used.worlds)
        self.findings += other.findings

    def facts(self) -> dict[str, Any]:
        """Return it as plain data, for a file."""
        return {
            "worlds": self.worlds,
            "bad": len(self.findings),
            "cpu_seconds": round(self.cpu_s, 1),
            "cpu_ms_per_world": round(self.cpu_s / max(self.worlds, 1) * 1_000, 1),
            "virtual_seconds": round(self.virtual_s),
            "callbacks": self.callbacks,
            "runs": self.runs,
            "steps": self.steps,
            "log_entries": self.entries,
            "profiles": dict(sorted(self.profiles.items())),
            "happened": dict(sorted(self.tally.times.items())),
            "worlds_with": dict(sorted(self.tally.worlds.items())),
            # Not each value that was ever given: those that a plan, a request or a fact can have.
            "worlds_made_of": {name: self.used.worlds.get(name, 0) for name in sorted(known())},
            "findings": [finding.line().partition("\n")[0] for finding in self.findings],
        }


def quiet(*, story: bool) -> None:
    """Keep the code's own log lines away, or let the story have them."""
    logger = logging.getLogger("headrace")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.INFO if story else logging.CRITICAL + 1)


def begin() -> None:
    """Prepare a process that will live through many worlds."""
    quiet(story=False)
    # What is imported stays; a world is garbage as a whole, and collected now and then.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def run_some(recipes: Iterable[Recipe], *, first: bool = False) -> Sums:
    """Live through worlds here; *first*: up to the first bad one."""
    sums = Sums()
    began = time.process_time()
    for recipe in recipes:
        world = World(recipe)
        sums.add(world, world.run())
        if first and sums.findings:
            break
    sums.cpu_s = time.process_time() - began
    return sums


def tell(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Live through one world here; return what was violated, and its story."""
    quiet(story=True)
    world = World(recipe, story=True)
    violations = world.run()
    return violations, world.story or []


def explain(recipe: Recipe) -> str:
    """Return what is found out about a bad world: a smaller one, and its short story."""
    quiet(story=True)
    small = shrink(recipe)
    return small.told() if small is not None else f"seed {recipe.seed} is fine when run again"


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Children that begin afresh, with a fixed hash seed: a seed is the same world everywhere."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=begin) as children:
            yield children
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before


def run_many(
    recipes: Iterable[Recipe], *, processes: int = 0, first: bool = False
) -> Iterator[Sums]:
    """Live through worlds in children; yield sums of some, as they come, until all are done.

    Close it to end early; with *first* it ends after a bad world by itself.
    """
    processes = processes or os.cpu_count() or 1
    chunks = _chunks(iter(recipes))
    with pool(processes) as children:
        running: set[Future[Sums]] = set()
        try:
            while True:
                while len(running) < 2 * processes and (chunk := next(chunks, None)):
                    running.add(children.submit(run_some, chunk, first=first))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    sums = future.result()
                    yield sums
                    if first and sums.findings:
                        return
        finally:
            children.shutdown(wait=True, cancel_futures=True)


def _chunks(recipes: Iterator[Recipe]) -> Iterator[list[Recipe]]:
    while chunk := [recipe for _, recipe in zip(range(CHUNK), recipes, strict=False)]:
        yield chunk


def tell_apart(recipe: Recipe) -> tuple[list[str], list[str]]:
    """As `tell`, in a process of its own."""
    with pool(1) as child:
        return child.submit(tell, recipe).result()


def _steps_of(recipe: Recipe, name: str) -> int:
    world = World(recipe)
    world.run()
    return world.steps_at_heal.get(name, 0)


def steps_of(recipe: Recipe, name: str) -> int:
    """Return how many steps the first life of a process does before nothing fails any more.

    In a process of its own, as the worlds that it is asked for.
    """
    with pool(1) as child:
        return child.submit(_steps_of, recipe, name).result()


def explain_apart(recipe: Recipe) -> str:
    """As `explain`, in a process of its own."""
    with pool(1) as child:
        return child.submit(explain, recipe).result()


def digests(seeds: Iterable[int]) -> list[str]:
    """Return a digest of each world's whole story, made in a process of its own."""
    with pool(1) as child:
        return [
            hashlib.blake2b(
                "\n".join(child.submit(tell, Recipe(seed)).result()[1]).encode()
            ).hexdigest()
            for seed in seeds
        ]
