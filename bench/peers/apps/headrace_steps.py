"""Handlers of the benchmark: what a worker of ours serves."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
from harness import note_step

from headrace.worker.handlers import Context, handler


class Nothing(msgspec.Struct, gc=False):
    """No inputs."""


@handler("bench/step")
async def step(_ctx: Context, _inputs: Nothing) -> None:
    """Do nothing."""


@handler("bench/noted")
async def noted(ctx: Context, _inputs: Nothing) -> None:
    """Note that the step was begun."""
    run = ctx.run.partition("/")[2]
    note_step(run.partition("-")[0], int(ctx.path.removeprefix("t")))


app = SimpleNamespace(handlers={"bench/step": step, "bench/noted": noted})
