"""What the client of each system has in common: the commands, the clocks, the step log.

Runs in the environment of the system, so it knows the standard library only. Commands come as
lines of JSON on standard input; each is answered by one line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
import traceback
from typing import Any

STEPS = 10
_log = -1


def note_step(run: str, index: int) -> None:
    """Write down that a step was begun: time, run, number; whole lines, whoever is killed."""
    global _log
    if _log < 0:
        _log = os.open(os.environ["BENCH_STEP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(_log, f"{time.time_ns()} {run} {index}\n".encode())


class System:
    """What a system's client can do. Each call returns when the results are there."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Let go."""

    async def single(self) -> None:
        """One run of one step: submit, and wait for its result."""
        raise NotImplementedError

    async def chains(self, runs: int) -> None:
        """*runs* at the same time, each a chain of `STEPS` steps."""
        raise NotImplementedError

    async def fan_out(self, width: int) -> None:
        """One run of *width* steps at the same time, and one that joins them."""
        raise NotImplementedError

    async def singles(self, count: int) -> None:
        """*count* runs of one step, submitted as fast as they are taken."""
        raise NotImplementedError

    async def noted_chains(self, names: list[str]) -> None:
        """Like `chains`, each step noting its run's name and its number."""
        raise NotImplementedError

    async def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Load for W5: streams of `noted_chains` for a time; names and failures."""
        return await _load(self, parameters)

    async def other(self, do: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Answer a command that only this system knows."""
        raise ValueError(f"no such command: {do} {parameters}")


async def _w1(system: System, runs: int) -> dict[str, Any]:
    took = []
    for _ in range(runs):
        begun = time.perf_counter()
        await system.single()
        took.append((time.perf_counter() - begun) * 1_000)
    return {"ms": took}


async def _seconds(work: Any) -> dict[str, Any]:
    begun = time.perf_counter()
    await work
    return {"seconds": time.perf_counter() - begun}


async def _load(system: System, parameters: dict[str, Any]) -> dict[str, Any]:
    """Streams of batches until *seconds* are over; then wait at most *grace_s* for the last."""
    until = time.monotonic() + parameters["seconds"]
    submitted: list[str] = []
    failures: list[str] = []
    numbers = itertools.count()

    async def stream() -> None:
        while time.monotonic() < until:
            names = [f"r{next(numbers)}" for _ in range(parameters["batch"])]
            submitted.extend(names)
            try:
                await system.noted_chains(names)
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(0.2)

    streams = [asyncio.create_task(stream()) for _ in range(parameters["streams"])]
    _, late = await asyncio.wait(streams, timeout=parameters["seconds"] + parameters["grace_s"])
    for task in late:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return {"submitted": submitted, "failures": failures[:5], "late": len(late)}


async def _answer(system: System, request: dict[str, Any]) -> dict[str, Any]:
    do = request.pop("do")
    if do == "w1":
        return await _w1(system, request["runs"])
    if do == "w2":
        return await _seconds(system.chains(request["runs"]))
    if do == "w3":
        return await _seconds(system.fan_out(request["width"]))
    if do == "w4":
        return await _seconds(system.singles(request["count"]))
    if do == "load":
        return await system.load(request)
    return await system.other(do, request)


async def _serve(system: System, answers: int) -> None:
    loop = asyncio.get_running_loop()

    def say(answer: dict[str, Any]) -> None:
        os.write(answers, json.dumps(answer).encode() + b"\n")

    await system.open()
    say({"ready": True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            say(await _answer(system, json.loads(line)))
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"[:500]})
    await system.close()


def serve(system: System) -> None:
    """Answer commands until standard input ends."""
    # Libraries may print: answers have a descriptor of their own.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(system, answers))
    else:
        uvloop.run(_serve(system, answers))
