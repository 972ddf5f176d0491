"""What makes a world: a seed, and what is left out of what it draws."""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Recipe(NamedTuple):
    """One world, wherever and whenever it is lived through."""

    seed: int
    profile: str = ""
    """Which faults may happen; empty: as the seed says."""
    omit: frozenset[str] = frozenset()
    """Parts (`World.parts`) that are left out: shrinking finds those that do not matter."""
    only: frozenset[str] = frozenset()
    """Kinds of faults, and no others, whatever the profile."""
    never: frozenset[str] = frozenset()
    """Kinds of faults that do not happen."""
    kill: tuple[str, int] = ("", 0)
    """(a process's name, the step before which its first life ends)."""

    def options(self) -> list[str]:
        """Return the options of ``python -m support.sim`` that make this world."""
        found = ["--seed", str(self.seed)]
        if self.profile:
            found += ["--profile", self.profile]
        for option, names in (("only", self.only), ("never", self.never), ("omit", self.omit)):
            if names:
                found += [f"--{option}", ",".join(sorted(names))]
        if self.kill[0]:
            found += ["--kill", f"{self.kill[0]}:{self.kill[1]}"]
        return found

    def command(self) -> str:
        """Return the command that tells this world."""
        return shlex.join(
            ["PYTHONPATH=tests", "python", "-m", "support.sim", *self.options(), "--story"]
        )
