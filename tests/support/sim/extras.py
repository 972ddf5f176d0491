"""What some worlds have beside the rest: each has some of it, by a chance of its own.

Nobody may wait for who waits for him: runs hold their concurrency key first, then groups theirs,
then groups a lock (`ROOM`), and single steps the other locks; child runs have steps' locks only.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from headrace.plan import Cache, Group, Lock, Loop, Plan, RateLimit, Sleep, Task, Wait
from support.sim.net import EPOCH_MS

if TYPE_CHECKING:
    from support.sim.plans import Spec

LOCKS = ("store", "index")
"""Held by single steps alone, so that they end: nobody waits for one who waits."""
ROOM = "room"
"""Held by groups."""
FIXED_RATES = {"api": (2, 400), "slow": (1, 250)}
"""Rate limits that every plan agrees about: (limit, period in ms)."""
SHIFTING_RATE = "shift"
"""One whose limit every plan says anew."""
CACHE_KEYS = ("one", "two")
STICKY_KEYS = ("s1", "s2")
FAIRNESS_KEYS = ("", "f1", "f2")
VARIABLE = "COLOUR"
COLOURS = ("red", "green", "blue")


class Extras:
    """Draws them for a world; `decorate` gives a plan its share."""

    KINDS: ClassVar[tuple[str, ...]] = (
        "locks",
        "rates",
        "caches",
        "sticky",
        "turns",
        "lockers",
        "definitions",
        "variables",
        "events",
        "kinds",
        "reruns",
    )

    def __init__(self, seed: int, *, skewed: bool) -> None:
        """*skewed*: clocks are wrong. Then a lock's time must be longer than they differ: the shard
        of who holds it looks at its own."""
        self.rng = random.Random(f"extras of {seed}")
        self._ttls_ms = [0, 0, 8_000] if skewed else [0, 0, 300, 1_500]
        self._has = {kind for kind in self.KINDS if self.rng.random() < 0.2}

    def has(self, kind: str) -> bool:
        """Tell whether this world has some of it."""
        return kind in self._has

    def decorate(self, root: Spec, *, child: bool) -> None:
        """Give the nodes of a plan what they ask for before they begin."""
        self._below(root, alone=child)

    def whole(self, plan: Plan) -> Plan:
        """Give a plan what it asks for as a whole."""
        rng, found = self.rng, plan
        if self.has("rates") and rng.random() < 0.3:
            found = msgspec.structs.replace(found, rate_limit=self._rate())
        if self.has("turns"):
            found = msgspec.structs.replace(
                found,
                fairness_key=rng.choice(FAIRNESS_KEYS),
                fairness_weight=rng.choice([0.5, 1.0, 3.0]),
            )
        return found

    def submitted(self) -> dict[str, Any]:
        """Return what a submit says beside its plan."""
        rng = self.rng
        if not self.has("turns"):
            return {}
        return {
            "input": {"n": rng.randrange(3)},
            "priority": rng.randint(-1, 2),
            "fairness_key": rng.choice(FAIRNESS_KEYS),
            "fairness_weight": rng.choice([0.0, 0.5, 3.0]),
        }

    def _below(self, above: Spec, *, alone: bool) -> None:
        for spec in above.children:
            held = alone
            if spec.made_as is Task:
                self._task(spec)
            elif spec.made_as is Group:
                held = self._group(spec, alone=alone)
            if self.has("kinds"):
                self._kind(spec)
            self._below(spec, alone=held)
        if self.has("kinds") and above.fields.get("kind") == "pipeline":
            self._stopper(above)

    def _kind(self, spec: Spec) -> None:
        """Make something rarer of a node."""
        rng, fields = self.rng, spec.fields
        if spec.made_as is Wait and rng.random() < 0.5:
            fields["approval"] = True
        elif spec.made_as is Sleep and rng.random() < 0.5:
            moment = datetime.fromtimestamp(EPOCH_MS // 1_000 + rng.randint(0, 6), UTC)
            fields |= {"duration_ms": None, "until": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
        elif spec.made_as is Loop and fields.get("kind") == "repeat":
            fields["limit"] = rng.choice([2, 100])
        elif spec.made_as is Loop and spec.children[0].made_as is Task and rng.random() < 0.4:
            fields |= {"kind": "broadcast", "items": None}
            fields["on_worker_loss"] = rng.choice(["fail", "skip"])
        elif spec.made_as is Loop and rng.random() < 0.4:
            axes = {"os": ["a", "b"], "n": list(range(rng.randint(1, 2)))}
            fields |= {"kind": "matrix", "items": axes, "variable": "matrix"}
        elif spec.made_as is Task and rng.random() < 0.1:
            fields["heartbeat_timeout_ms"] = 6_000
        elif fields.get("kind") == "job":
            fields["cancel_timeout_ms"] = rng.choice([1, 300])
            fields["runs_on"] = rng.choice([(), ("gpu",)])

    def _stopper(self, above: Spec) -> None:
        """In a sequence, something that stops what is in the background."""
        stopped = [at for at, child in enumerate(above.children) if child.fields.get("background")]
        if not stopped:
            return
        made = type(above)(Group, [], kind="parallel")
        before = [at for at in range(len(above.children)) if at not in stopped]
        made.needs = before[-1:]
        made.stops = stopped
        above.children.append(made)

    def _task(self, spec: Spec) -> None:
        rng, fields = self.rng, spec.fields
        if self.has("locks") and rng.random() < 0.4:
            fields["lock"] = self._lock(rng.choice(LOCKS))
        if self.has("rates") and rng.random() < 0.5:
            fields["rate_limit"] = self._rate()
        if self.has("caches") and rng.random() < 0.5:
            ttl_ms = rng.choice([0, 0, 300, 1_500])
            fields["cache"] = Cache(key=rng.choice(CACHE_KEYS), ttl_ms=ttl_ms)
        if self.has("sticky") and rng.random() < 0.5:
            fields["sticky"] = rng.choice(STICKY_KEYS)
        if self.has("variables") and rng.random() < 0.5:
            read = {VARIABLE: f"${{{{ vars.{VARIABLE} }}}}"}
            fields["inputs"] = {**fields.get("inputs", {}), **read}

    def _group(self, spec: Spec, *, alone: bool) -> bool:
        """Tell whether groups inside may not wait for anything that others hold."""
        rng, fields = self.rng, spec.fields
        if self.has("rates") and rng.random() < 0.2:
            fields["rate_limit"] = self._rate()
        if self.has("sticky") and rng.random() < 0.3:
            fields["sticky"] = rng.choice(STICKY_KEYS)
        if alone or not self.has("locks") or rng.random() < 0.6 or _has_key(spec):
            return alone
        fields["lock"] = self._lock(ROOM)
        return True

    def _lock(self, name: str) -> Lock:
        rng = self.rng
        ttl_ms, timeout_ms = rng.choice(self._ttls_ms), rng.choice([0, 0, 0, 200, 1_500])
        return Lock(name=name, ttl_ms=ttl_ms, timeout_ms=timeout_ms)

    def _rate(self) -> RateLimit:
        rng = self.rng
        timeout_ms = rng.choice([0, 0, 0, 200, 1_500])
        key = rng.choice([*FIXED_RATES, SHIFTING_RATE])
        limit, per_ms = FIXED_RATES.get(key) or (rng.randint(1, 4), rng.choice([150, 300, 600]))
        return RateLimit(key=key, limit=limit, per_ms=per_ms, timeout_ms=timeout_ms)


def _has_key(spec: Spec) -> bool:
    """Tell whether a group inside waits for a concurrency key."""
    return any(_waits(child) for child in spec.children)


def _waits(spec: Spec) -> bool:
    fields: dict[str, Any] = spec.fields
    return spec.made_as in (Group, Loop) and ("concurrency" in fields or _has_key(spec))
