"""Workflow functions of a world: one real function (`headrace.sdk`) that plays a script.

What a script comes to is known beforehand, but for what comes from outside (signals, and effects
of which nobody knows): `expected` computes it from the journal's answers to those, without the
SDK. Each step is given what came before it, so that a function that goes another way the second
time contradicts its own journal.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.sdk import (
    App,
    ChildFailed,
    Context,
    EffectUnknown,
    Operation,
    Retry,
    StepFailed,
    step_info,
)
from support.sim.plans import HANDLER

if TYPE_CHECKING:
    from support.sim.workers import SimWorker
    from support.sim.world import World

APP = App("sim", "1")
SIGNALS = ("go", "stop")
"""Awaited without a limit of time: for each there is one."""
HINT = "hint"
"""Awaited for a while; perhaps it comes."""
UPDATE, QUERY = "add", "total"
OPERATIONS_MAX = 9
DEPTH_MAX = 2
worker_now: contextvars.ContextVar[SimWorker] = contextvars.ContextVar("worker")
"""The process in which a step runs."""
turn_now: contextvars.ContextVar[tuple[str, int]] = contextvars.ContextVar("turn")
"""(run key, attempt) of the turn in which a step runs."""


# -- steps ----------------------------------------------------------------------------------------


def value_of(key: str, before: str) -> str:
    """Return what the step *key* comes to after *before*."""
    return f"{key}.{zlib.crc32(before.encode()):x}"


async def _takes_time(kind: str, key: str) -> None:
    """A slow one says how far it is."""
    world, told = worker_now.get().world, step_info()
    if told.last_details() not in (None, key):
        world.violation(f"{key} of {told.run} is told the details {told.last_details()!r}")
    if kind != "instant":
        await asyncio.sleep(0.002 + world.rng.random() * 0.08)
    if kind == "slow":
        told.heartbeat(key)
        await asyncio.sleep(world.rng.random() * 3)


@APP.step(retry=Retry(30, initial=0.02, maximum=0.3))
async def work(key: str, before: str, kind: str, salt: str = "") -> str:
    """Take some time; a flaky one fails by chance, and is tried again. *salt*: the same in every
    replay, or the journal is contradicted."""
    run, attempt = turn_now.get()
    worker, value = worker_now.get(), value_of(key, before)
    worker.world.effects.begins(worker.worker, run, attempt, key, kind)
    await _takes_time(kind, key)
    if kind == "flaky" and worker.world.rng.random() < 0.5:
        raise OSError("by chance")
    if kind == "broken":
        raise ValueError("always")
    worker.world.effects.computed(run, key, value)
    return value


@APP.step(effect="at-most-once")
async def once(key: str, before: str) -> str:
    """An effect that must not happen twice."""
    return await work.function(key, before, "once")


class Effects:
    """What steps of functions really did in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._begun: dict[tuple[str, str], list[str]] = {}
        """(run, key) -> workers on which that at-most-once step began."""
        self._computed: set[tuple[str, str, str]] = set()

    def begins(self, worker: str, run: str, attempt: int, key: str, kind: str) -> None:
        """A step's code begins, in a turn that was given with all that was recorded before."""
        world, model = self._world, self._world.oracle.run(run)
        entry = model.journal.get(key) if model is not None else None
        world.tell(f"{worker} starts {run} {key} in turn {attempt}")
        if entry is not None and entry.ended_before(attempt):
            world.violation(f"{run} {key} is recorded, and runs again in turn {attempt}")
        if kind == "once":
            earlier = self._begun.setdefault((run, key), [])
            if earlier:
                world.violation(f"at-most-once {key} of {run} starts on {worker}, and {earlier}")
            earlier.append(worker)

    def computed(self, run: str, key: str, value: str) -> None:
        """A step has a result."""
        self._computed.add((run, key, value))

    def check(self, run: str, key: str, value: Any) -> str:
        """Say what is wrong with a result in the log; "" if nothing is."""
        if (run, key, value) in self._computed:
            return ""
        return f"{key} is recorded as {value!r}, which nobody computed"


# -- the function ---------------------------------------------------------------------------------


@APP.workflow
async def play(ctx: Context, script: list[Any], before: str = "") -> str:
    """Do what the script says; return a digest of what came of it."""
    total = 0

    def add(number: int) -> int:
        nonlocal total
        total += number
        return total

    ctx.update(UPDATE, add)
    ctx.query(QUERY, lambda: total)
    return await _plays(ctx, script, before, lambda: total)


async def _plays(ctx: Context, script: list[Any], before: str, total: Callable[[], int]) -> str:
    for number, (kind, key, *more) in enumerate(script):
        if kind == "again":
            ctx.continue_as_new(play, script[number + 1 :], before)
        elif kind == "parallel":
            branches = [_plays(ctx, part, before, total) for part in more[1]]
            found = await ctx.parallel(branches, join=more[0])
            before = value_of(key, "|".join(found) if more[0] == "all" else before)
        else:
            before = value_of(key, before + await _one(ctx, kind, key, before, more, total))
    return before


async def _one(
    ctx: Context, kind: str, key: str, before: str, more: list[Any], total: Callable[[], int]
) -> str:
    """Do one thing; return what came of it."""
    if kind == "step":
        salt = "" if more[0] == "instant" else str(ctx.uuid(key=key))
        how = work.options(key=key, retry=Retry(1) if more[0] == "broken" else None)
        try:
            return await ctx.step(how, key, before, more[0], salt)
        except StepFailed as error:
            return error.type
    if kind == "once":
        try:
            return await ctx.step(once.options(key=key), key, before)
        except EffectUnknown:
            return "unknown"
    if kind == "sleep":
        await ctx.sleep(more[0] / 1_000)
    elif kind == "signal":
        late = {"v": -1}
        limit = more[1] / 1_000 or None
        return str((await ctx.signal(more[0], timeout=limit, default=late, key=key))["v"])
    elif kind == "memo":
        chance = worker_now.get().world.rng
        return str(await ctx.memo(key, lambda: chance.randrange(1_000)))
    elif kind == "update":
        # Which way it goes is in the order of the journal alone.
        if await ctx.wait_until(lambda: total() > 0, timeout=more[0] / 1_000):
            await ctx.step(work.options(key=key), key, "updated", "instant")
    elif kind == "tells":
        ctx.set_label(key, before)
        ctx.patched(key)
    else:
        return await _elsewhere(ctx, kind, key, before, more)
    return ""


async def _elsewhere(ctx: Context, kind: str, key: str, before: str, more: list[Any]) -> str:
    """Begin another run."""
    child: Operation[Any]
    if kind == "detached":
        child = ctx.start_child(play.options(key=key), more[0], before)
    elif kind == "call":
        child = ctx.call(more[0], HANDLER, {"kind": "instant"}, key=key)
    else:
        child = ctx.child(play.options(key=key), more[0], before)
    try:
        found = await child
    except ChildFailed:
        return "failed"
    return str(found) if kind == "child" else kind


# -- scripts --------------------------------------------------------------------------------------


class ScriptMaker:
    """Makes scripts from one source of chance; keys are unique in each."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._left = 0
        self._keys = 0

    def script(self) -> list[Any]:
        """Return one for a run of its own."""
        self._left = self._rng.choice([2, 5, OPERATIONS_MAX])
        return self._part(0, told=True, top=True)

    def _part(self, depth: int, *, told: bool, top: bool = False) -> list[Any]:
        """*told*: somebody sends what it waits for."""
        found = [self._operation(depth, told)]
        while self._left > 0 and self._rng.random() < 0.8:
            found.append(self._operation(depth, told))
            if top and self._rng.random() < 0.1:
                found.append(["again", self._key()])
        return found

    def _key(self) -> str:
        self._keys += 1
        return f"k{self._keys}"

    def _operation(self, depth: int, told: bool) -> list[Any]:
        rng, key = self._rng, self._key()
        self._left -= 1
        draw = rng.random()
        if draw < 0.4:
            kinds = ["instant", "quick", "slow", "flaky", "flaky", "broken"]
            return ["step", key, rng.choice(kinds)]
        if draw < 0.5:
            return ["once", key]
        if draw < 0.6:
            return ["sleep", key, rng.choice([1, 30, 400, 1_500])]
        if draw < 0.68:
            if not told or rng.random() < 0.5:
                return ["signal", key, HINT, rng.choice([50, 800])]
            return ["signal", key, rng.choice(SIGNALS), 0]
        if draw < 0.72:
            return ["memo", key]
        if draw < 0.77:
            return ["update", key, rng.choice([200, 1_500])]
        if draw < 0.8:
            return ["tells", key]
        if depth >= DEPTH_MAX:
            return ["step", key, "instant"]
        return self._nested(key, depth, told)

    def _nested(self, key: str, depth: int, told: bool) -> list[Any]:
        rng, draw = self._rng, self._rng.random()
        if draw < 0.2:
            return ["call", key, rng.choice([[], ["gpu"]])]
        if draw < 0.35:
            return ["detached", key, [["step", self._key(), "quick"]]]
        if draw < 0.6:
            return ["child", key, self._part(depth + 1, told=False)]
        parts = [self._part(depth + 1, told=told) for _ in range(rng.randint(2, 3))]
        return ["parallel", key, rng.choice(["all", "all", "any"]), parts]


def signals_of(script: list[Any]) -> dict[str, int]:
    """Return how many signals of each name a run awaits without a limit of time."""
    needed: dict[str, int] = {}
    for kind, _, *more in script:
        if kind == "signal" and not more[1]:
            needed[more[0]] = needed.get(more[0], 0) + 1
        for part in more[1] if kind == "parallel" else ():
            for name, count in signals_of(part).items():
                needed[name] = needed.get(name, 0) + count
    return needed


def expected(
    script: list[Any], before: str, told: Callable[[str, str, list[Any], str], str]
) -> str:
    """Return what *script* comes to; *told* says what came from outside, or of a child.

    It is given kind, key, the rest of the operation, and what came before it.
    """
    for kind, key, *more in script:
        if kind == "parallel":
            parts = [expected(part, before, told) for part in more[1]] if more[0] == "all" else []
            before = value_of(key, "|".join(parts) if more[0] == "all" else before)
        elif kind != "again":
            before = value_of(key, before + told(kind, key, more, before))
    return before
