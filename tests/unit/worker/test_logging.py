"""Which attempt a line of the worker's log is about."""

from __future__ import annotations

import asyncio
import json
import logging

from headrace.telemetry import JsonFormatter
from headrace.worker.handlers import Context, handler
from support.worker_owner import make_task


async def test_lines_of_a_log_tell_the_attempt_that_they_are_about(make_bench) -> None:
    lines: list[dict] = []

    def note(where: str) -> None:
        made = logging.makeLogRecord({"msg": where})
        lines.append(json.loads(JsonFormatter().format(made)))

    async def later() -> None:
        await ended.wait()
        note("after")

    @handler("logs")
    async def logs(ctx: Context, inputs: dict) -> None:
        left.append(asyncio.create_task(later()))
        note("first")
        await asyncio.sleep(0)
        note("resumed")

    @handler("blocks")
    def blocks(ctx: Context, inputs: dict) -> None:
        note("thread")

    @handler("short")
    async def short(ctx: Context, inputs: dict) -> None:
        note("short")

    left: list[asyncio.Task] = []
    ended = asyncio.Event()
    bench = make_bench(handlers=[logs, blocks, short])
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    await bench.run(make_task("d/r", 1, uses="logs", token=1, attempt=3, traceparent=parent))
    ended.set()
    await asyncio.gather(*left)
    for step, uses in ((2, "blocks"), (3, "short"), (4, "short")):
        await bench.run_one(make_task("d/r", step, uses=uses, token=step))
    traced = {"run": "d/r", "step": make_task("d/r", 1).path, "attempt": 3, "trace_id": trace}
    said = {line["message"]: line for line in lines}
    assert traced.items() <= said["first"].items()
    assert traced.items() <= said["resumed"].items()
    assert "run" not in said["after"], "the attempt is over"
    assert said["thread"]["step"] == make_task("d/r", 2).path
    assert "trace_id" not in said["thread"]
    assert [line["step"] for line in lines if line["message"] == "short"] == [
        make_task("d/r", 3).path,
        make_task("d/r", 4).path,
    ]
