"""From a world that went wrong to the smallest one that still does, and its story in short.

The world stays the one of its seed; parts of it (faults, runs, coordinators, workers) are left
out while what was violated stays the same, first many at once, then fewer: delta debugging
(Zeller and Hildebrandt, 2002).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from support.sim.allowance import OVERDUE
from support.sim.recipe import Recipe
from support.sim.world import World

TRIES_MAX = 60
"""Worlds that shrinking may live through."""
LINES_MAX = 70
_NAMES = re.compile(r"default/\S+|\b[a-z]{2}-r?\d\S*|\S*\d\S*|'[^']*'|\[.*|\(.*")
_RUNS = re.compile(r"\b[a-z]{2}-r\d+\b")
_TURNS = (
    " is killed",
    " takes itself for",
    " does not know that it owns",
    " learns who owns",
    ": shard taken",
    ": shard lost",
    ": shard not served",
    ": took control",
    ": state is rebuilt",
    ": task stream was lost",
    "VIOLATION",
)


class Shrunk(NamedTuple):
    """A world that fails, with nothing in it that it does not need."""

    recipe: Recipe
    profile: str
    violations: list[str]
    story: list[str]
    parts: int
    """How many parts are left, of how many."""
    parts_before: int
    worlds: int
    """How many worlds it took to find this."""

    def told(self) -> str:
        """Return what somebody needs who has to find out why."""
        return "\n".join(
            [
                f"seed {self.recipe.seed} ({self.profile}): {self.violations[0]}",
                f"  {self.parts} of {self.parts_before} parts are needed "
                f"({self.worlds} worlds tried); the whole story of what is left:",
                f"  {self.recipe.command()}",
                *(f"  {line}" for line in timeline(self.story, self.violations)),
            ]
        )


def kind_of(violation: str) -> str:
    """Return what is the same in two violations of one kind: no names, no numbers."""
    text = violation.partition("\n")[0]
    if text.startswith("["):
        text = text.partition("] ")[2]
    return " ".join(_NAMES.sub("", text).split())[:60]


def shrink(recipe: Recipe, *, tries_max: int = TRIES_MAX) -> Shrunk | None:
    """Return the smallest world found that fails as *recipe*'s does; None: it does not fail."""
    first = World(recipe)
    found = first.run()
    if not found:
        return None
    if OVERDUE in found[0]:
        # Each try would take as long.
        tries_max = 0
    search = _Search(recipe, kind_of(found[0]), tries_max)
    parts = [part for part in dict.fromkeys(first.parts) if part not in recipe.omit]
    left = search.minimize(parts)
    small = search.recipe(parts, left)
    told = World(small, story=True)
    violations = told.run()
    return Shrunk(
        small, told.profile, violations, told.story or [], len(left), len(parts), search.tried + 2
    )


class _Search:
    """Tries worlds of one seed."""

    def __init__(self, recipe: Recipe, kind: str, tries_max: int) -> None:
        self._recipe, self._kind, self._tries_max = recipe, kind, tries_max
        self.tried = 0

    def recipe(self, parts: list[str], kept: list[str]) -> Recipe:
        """Return the world with only *kept* of *parts*."""
        omit = self._recipe.omit | (set(parts) - set(kept))
        return self._recipe._replace(omit=frozenset(omit))

    def _fails(self, parts: list[str], kept: list[str]) -> bool:
        if self.tried >= self._tries_max:
            return False
        self.tried += 1
        found = World(self.recipe(parts, kept)).run()
        return bool(found) and kind_of(found[0]) == self._kind

    def minimize(self, parts: list[str]) -> list[str]:
        """Return the parts that are needed, as far as the tries reach."""
        kept, pieces = parts, 2
        while kept and self.tried < self._tries_max:
            size = max(len(kept) // pieces, 1)
            for start in range(0, len(kept), size):
                fewer = kept[:start] + kept[start + size :]
                if self._fails(parts, fewer):
                    kept, pieces = fewer, max(pieces - 1, 2)
                    break
            else:
                if size == 1:
                    break
                pieces = min(pieces * 2, len(kept))
        return kept


def timeline(story: list[str], violations: list[str]) -> list[str]:
    """Return the lines of a story that tell it in short: faults, lives, owners, who it is about."""
    about = set(_RUNS.findall(" ".join(violations[:1])))
    lines = [
        line
        for line in story
        if line[9:].startswith(("  ** ", "     no way", "     a clock"))
        or line.endswith(" starts")
        or any(turn in line for turn in _TURNS)
        or any(run in line for run in about)
    ]
    if len(lines) > LINES_MAX:
        middle = f"… {len(lines) - LINES_MAX} lines left out …"
        lines = [*lines[: LINES_MAX // 3], middle, *lines[-(LINES_MAX - LINES_MAX // 3) :]]
    return [line.partition("\n")[0][:220] for line in lines]
