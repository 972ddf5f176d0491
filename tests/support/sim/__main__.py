"""One world, told: ``python -m support.sim --seed N [--story]``; or many, quickly."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from support.sim.world import World


def main() -> int:
    """Run worlds; 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m support.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--story", action="store_true")
    parser.add_argument("--profile", default="")
    parser.add_argument("--first", action="store_true", help="stop at the first bad world")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of names is part of what a seed decides.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "support.sim", *sys.argv[1:]])
    logging.getLogger("headrace").setLevel(logging.INFO if options.story else logging.CRITICAL + 1)
    logging.getLogger("headrace").propagate = False
    bad = 0
    began = time.perf_counter()
    for seed in range(options.seed, options.seed + options.count):
        world = World(seed, story=options.story, profile=options.profile)
        violations = world.run()
        for line in world.story or ():
            print(line)
        if violations:
            bad += 1
            print(f"seed {seed} ({world.profile}): {violations[0]}")
            if options.first:
                return 1
        elif options.count == 1:
            print(
                f"seed {seed} ({world.profile}): fine, {world.loop.now_s:.1f} virtual seconds, "
                f"{world.loop.callbacks} callbacks, {len(world.record.executions)} steps ran"
            )
    took_s = time.perf_counter() - began
    if options.count > 1:
        print(f"{options.count} worlds, {bad} bad, {took_s / options.count * 1000:.1f} ms each")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
