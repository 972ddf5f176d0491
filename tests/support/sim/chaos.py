"""Faults: what may befall a world, when, and what ends it. The deeds are in `mishaps`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from support.sim.mishaps import MISHAPS, Mishaps

if TYPE_CHECKING:
    from support.sim.world import World

PAUSES_S = (0.02, 0.1, 0.3, 0.8, 2.0, 4.0)
FAULTS_MAX = 9
PROFILES: dict[str, tuple[str, ...]] = {
    "calm": (),
    "owners": (
        "old-view",
        "two-owners",
        "stop-coordinator",
        "kill-coordinator",
        "kill-controller",
        "kill-coordinator-at",
    ),
    "workers": (
        "kill-worker",
        "lose-worker",
        "kill-worker-at",
        "freeze-worker",
        "drain-worker",
        "old-view",
    ),
    "broker": (
        "silence",
        "silence",
        "broker-restart",
        "broker-loss",
        "old-view",
        "full-stream",
        "full-disk",
        "slow-disk",
    ),
    "cuts": (
        "cut-coordinator",
        "cut-worker",
        "cut-controller",
        "freeze-coordinator",
        "freeze-controller",
        "partition",
        "partition",
        "split",
        "two-owners",
        "no-control",
    ),
    "stores": ("archive", "snapshots", "rot", "kill-coordinator", "slow-disk", "full-disk"),
    "net": (
        "net",
        "net",
        "loss",
        "copies",
        "delays",
        "reorder",
        "requests",
        "kill-worker",
        "old-view",
    ),
    "clocks": ("clock-forward", "clock-back", "clock-forward", "clock-back", "kill-coordinator"),
}
"""What may happen in a world; "all" is everything."""
WORKERS_SAFE = frozenset(("calm", "owners", "stores", "broker"))
"""Profiles in which no worker is ever lost, or cut off while others are not."""
WORKERS_SPARED = frozenset(
    ("cut-coordinator", "cut-controller", "freeze-coordinator", "freeze-controller")
).union(*(PROFILES[name] for name in WORKERS_SAFE))
"""The faults of which that holds."""
DRAWN = (*PROFILES, "all", "all", "all", "all", "owners", "cuts")


class Fault(NamedTuple):
    """Something that goes wrong, when, and the chance that decides how."""

    part: str
    """Its name in this world: shrinking leaves out parts by name."""
    kind: str
    at_s: float
    rng: random.Random


class Chaos:
    """Draws faults, and has them done."""

    def __init__(self, world: World) -> None:
        self._world = world
        recipe = world.recipe
        drawn = world.shape.choice(DRAWN)
        alone = recipe.only or recipe.kill[0]
        self.profile = "only" if alone else recipe.profile or drawn
        chosen = {"all": tuple(sorted(MISHAPS)), "only": tuple(sorted(recipe.only)), **PROFILES}
        self._kinds = chosen[self.profile]
        self.clocks_alone = set(self._kinds) <= set(PROFILES["clocks"])
        """Nothing keeps a coordinator from finding out that its clock is wrong."""
        self.control_alone = set(self._kinds) == {"no-control"}
        """Nothing goes wrong but that coordinators do not hear of the control plane."""
        self.workers_safe = self.profile in WORKERS_SAFE or (
            not recipe.kill[0] and bool(recipe.only) and recipe.only <= WORKERS_SPARED
        )
        """No worker is ever in trouble: no attempt that has begun may be given up."""
        self._mishaps = Mishaps(world)

    def plan(self, until_s: float) -> None:
        """Let some faults happen before *until_s*."""
        world = self._world
        if not self._kinds:
            return
        for number in range(world.shape.randint(1, FAULTS_MAX)):
            # Each has its own chance: one that is left out changes nothing of the others.
            rng = random.Random(f"{world.recipe.seed} fault {number}")
            at_s = 0.1 + rng.random() * until_s
            fault = Fault(f"fault-{number}", rng.choice(self._kinds), at_s, rng)
            if world.takes_part(fault.part) and fault.kind not in world.recipe.never:
                world.later(at_s, self._do, fault)

    def _do(self, fault: Fault) -> None:
        if self._world.healed:
            return
        self._world.tell(f"** {fault.kind} ({fault.part})")
        undo: Callable[[], None] | None = MISHAPS[fault.kind](self._mishaps, fault.rng)
        if undo is not None:
            pause_s = fault.rng.choice(PAUSES_S) * (0.5 + fault.rng.random())
            self._world.later(pause_s, self._undo, fault, undo)

    def _undo(self, fault: Fault, undo: Callable[[], None]) -> None:
        self._world.tell(f"** {fault.kind} ends ({fault.part})")
        undo()
