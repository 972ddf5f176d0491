"""Soak of the control plane: faults for as long as you like, how long agreement takes after each.

    python bench/control_soak.py --minutes 10                 real processes, a real broker
    python bench/control_soak.py --virtual 1000 --count 5     seeds on virtual time

Prints one JSON object; exits 1 when agreement took longer than ``--limit-s`` even once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from headrace.bus import BrokerProcess, connect
from headrace.coordinator.control.raft import RaftTimings
from support.broker import eventually
from support.control_fleet import Fleet
from support.control_world import World


def virtual(first: int, seeds: int, count: int, limit_s: float) -> dict[str, Any]:
    ids = [f"c{number}" for number in range(count)]
    took_s: list[float] = []
    rebuilds: Counter[str] = Counter()
    slow: list[int] = []
    virtual_s = 0.0
    for seed in range(first, first + seeds):
        rng = random.Random(seed * 7919 + count)
        with World(
            seed,
            timings=RaftTimings(compact_entries=rng.choice([8, 30, 256])),
            loss=rng.choice([0.0, 0.0, 0.01, 0.05]),
            delay_s=rng.choice([0.0005, 0.002, 0.02]),
        ) as world:
            world.start_all(*ids)
            world.run(rng.uniform(0.5, 3))
            for _ in range(12):
                world.hurt(rng, ids)
            world.loss = 0.0
            # Agreement counts once it lasts: views of the past may agree for a moment.
            start_s = world.now_s
            end_s = start_s
            while world.now_s - start_s < limit_s + 10:
                world.run(0.1)
                if not (world.converged() and len(world.controllers()) == 1):
                    end_s = world.now_s
            took_s.append(end_s - start_s)
            if took_s[-1] > limit_s:
                slow.append(seed)
            for node in world.alive():
                rebuilds.update(node.member.rebuilds)
            virtual_s += world.now_s
    return report(took_s, slow=slow, rebuilds=dict(rebuilds), virtual_hours=virtual_s / 3600)


async def real(minutes: float, count: int, limit_s: float, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    ids = tuple(f"c{number}" for number in range(count))
    took: dict[str, list[float]] = {}
    slow: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        broker = BrokerProcess(directory, name="soak")
        await broker.start()
        bus = await connect(broker.url, name="watcher")
        fleet = Fleet(broker, bus)
        try:
            fleet.start(*ids)
            await fleet.settle(*ids, within_s=30)
            end_s = time.monotonic() + minutes * 60
            while time.monotonic() < end_s:
                fault = await hurt(fleet, rng, ids)
                start_s = time.monotonic()
                try:
                    await lasting(fleet, ids, limit_s)
                except AssertionError:
                    slow.append(
                        {
                            "fault": fault,
                            "views": {
                                name: (beat.view, beat.view_hash, beat.term, beat.controller)
                                for name, beat in fleet.living().items()
                            },
                        }
                    )
                    await fleet.settle(*ids, within_s=120)
                took.setdefault(fault, []).append(time.monotonic() - start_s)
        finally:
            fleet.close()
            await bus.close()
            await broker.stop()
    every = [each for times in took.values() for each in times]
    by_fault = {fault: summary(times) for fault, times in sorted(took.items())}
    return report(every, slow=slow, by_fault=by_fault)


async def lasting(fleet: Fleet, ids: tuple[str, ...], limit_s: float) -> None:
    """Return once all agree; what was shown before the fault had ended does not count."""
    since_s = time.monotonic()
    await eventually(
        lambda: (
            fleet.bus.connected
            and fleet.converged(*ids)
            and all(at_s > since_s + 0.3 for at_s, _ in fleet.beats.values())
        ),
        within_s=limit_s,
        step_s=0.02,
    )


async def hurt(fleet: Fleet, rng: random.Random, ids: tuple[str, ...]) -> str:
    fault = rng.choice(["kill", "kill", "stop", "freeze", "freeze", "broker", "pause", "all"])
    name, for_s = rng.choice(ids), rng.choice([0.05, 0.3, 1.0, 3.0])
    former = {each: fleet.beats[each][1].incarnation for each in ids}
    if fault == "kill":
        fleet.kill(name)
        await asyncio.sleep(for_s)
        fleet.start(name, peers=ids)
    elif fault == "stop":
        await fleet.stop(name)
        await asyncio.sleep(for_s)
        fleet.start(name, peers=ids)
    elif fault == "freeze":
        fleet.freeze(name)
        await asyncio.sleep(for_s)
        fleet.thaw(name)
    elif fault == "broker":
        await fleet.broker.kill()
        await asyncio.sleep(for_s)
        await fleet.broker.start()
    elif fault == "pause":
        fleet.broker.pause()
        await asyncio.sleep(for_s)
        fleet.broker.resume()
    else:
        for each in ids:
            fleet.kill(each)
        await asyncio.sleep(for_s)
        for each in ids:
            fleet.start(each, peers=ids)
            await asyncio.sleep(rng.choice([0.0, 0.1, 0.5]))
    if fault in ("kill", "stop", "all"):
        lost = ids if fault == "all" else (name,)
        await eventually(
            lambda: all(fleet.beats[each][1].incarnation != former[each] for each in lost),
            within_s=30,
        )
    return fault


def summary(times_s: list[float]) -> dict[str, float]:
    ordered = sorted(times_s)
    return {
        "n": len(ordered),
        "p50_s": round(ordered[len(ordered) // 2], 3),
        "p99_s": round(ordered[int(len(ordered) * 0.99)], 3),
        "max_s": round(ordered[-1], 3),
    }


def report(times_s: list[float], **more: Any) -> dict[str, Any]:
    return {
        "machine": {"python": platform.python_version(), "system": platform.platform()},
        "agreement": summary(times_s),
        **more,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--virtual", type=int, default=0, help="seeds on virtual time instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3, help="coordinators")
    parser.add_argument("--limit-s", type=float, default=15)
    given = parser.parse_args()
    logging.basicConfig(handlers=[logging.NullHandler()])
    if given.virtual:
        result = virtual(given.seed, given.virtual, given.count, given.limit_s)
    else:
        result = asyncio.run(real(given.minutes, given.count, given.limit_s, given.seed))
    print(json.dumps(result, indent=2))
    return 1 if result["slow"] else 0


if __name__ == "__main__":
    sys.exit(main())
