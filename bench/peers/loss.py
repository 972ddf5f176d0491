"""W5: kill -9 of the worker in the middle of load; what the steps themselves wrote down tells."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.peers.processes import Broken
from bench.peers.systems import System
from bench.peers.systems.system import STEP_LOG

STEPS = 10
BACK_AFTER_S = 1.0
"""The killed worker is started again after so long."""
LOAD_S, QUICK_LOAD_S = 10.0, 7.0
BEFORE_S = 2.0
FIRST_STEP_S = 40.0
IN_THE_MIDDLE_S = 3.0


def measure_loss(system: System, *, quick: bool) -> dict[str, Any]:
    """Run W5 on a started system. Raises `Broken`."""
    system.before_loss()
    assert system.worker is not None
    assert system.client is not None
    log = system.folder / STEP_LOG
    load, seconds = system.load, QUICK_LOAD_S if quick else LOAD_S
    system.client.send(
        "load",
        seconds=seconds,
        streams=load.w5_streams,
        batch=load.w5_batch,
        grace_s=load.w5_grace_s,
    )
    deadline = time.monotonic() + FIRST_STEP_S
    while not log.exists() or not log.stat().st_size:
        if time.monotonic() > deadline:
            raise Broken(f"no step ran within {FIRST_STEP_S:.0f} s\n{system.tails()}")
        time.sleep(0.02)
    time.sleep(BEFORE_S)
    _until_in_the_middle(log, load.w5_streams * load.w5_batch)
    system.worker.kill()
    killed_ns = time.time_ns()
    time.sleep(BACK_AFTER_S)
    system.start_worker()
    told = system.client.answer(within_s=seconds + load.w5_grace_s + FIRST_STEP_S)
    figures = read_steps(log, killed_ns, told["submitted"])
    return figures | {"at_once": load.w5_streams * load.w5_batch, "failures": told["failures"]}


def _until_in_the_middle(log: Path, at_once: int) -> None:
    """Return when a quarter of the runs have begun and not ended, or soon after all the same."""
    deadline = time.monotonic() + IN_THE_MIDDLE_S
    while time.monotonic() < deadline:
        begun, ended = set(), set()
        for line in log.read_text().splitlines():
            _, run, index = line.split()
            begun.add(run)
            if int(index) == STEPS - 1:
                ended.add(run)
        if len(begun - ended) >= at_once / 4:
            return
        time.sleep(0.02)


def read_steps(log: Path, killed_ns: int, submitted: Iterable[str]) -> dict[str, Any]:
    """Return what the step log tells about a kill at *killed_ns* (ns since the epoch).

    `pause_s`: from the kill to the next step that began; `interrupted`: runs that had begun and
    not come to their last step by then; `interrupted_done_s`: from the kill until all of them had;
    `twice`: steps begun again; `lost`: runs that never came to their last step. Seconds are None
    where what they wait for never came.
    """
    first: dict[tuple[str, int], int] = {}
    begun, after = 0, 0
    seen: set[str] = set()
    for line in log.read_text().splitlines():
        at, run, index = line.split()
        begun += 1
        time_ns = int(at)
        first[run, int(index)] = min(time_ns, first.get((run, int(index)), time_ns))
        if time_ns <= killed_ns:
            seen.add(run)
        elif not after or time_ns < after:
            after = time_ns
    ends = {run: at for (run, index), at in first.items() if index == STEPS - 1}
    runs = {run for run, _ in first} | set(submitted)
    interrupted = {run for run in seen if ends.get(run, killed_ns + 1) > killed_ns}
    done = [ends[run] for run in interrupted if run in ends]
    finished = len(done) == len(interrupted)
    return {
        "runs": len(runs),
        "steps_begun": begun,
        "pause_s": (after - killed_ns) / 1e9 if after else None,
        "interrupted": len(interrupted),
        "interrupted_done_s": (
            max((at - killed_ns) / 1e9 for at in done) if done and finished else None
        ),
        "twice": begun - len(first),
        "lost": len(runs - set(ends)),
    }
