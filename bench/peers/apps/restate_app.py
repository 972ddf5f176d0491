"""The Restate service: durable steps with `ctx.run_typed`."""

from __future__ import annotations

import restate
from harness import STEPS, note_step

bench = restate.Service("bench")


async def step() -> None:
    """Do nothing."""


async def noted(run: str, index: int) -> None:
    """Note that the step was begun."""
    note_step(run, index)


@bench.handler()
async def one(ctx: restate.Context) -> None:
    """One step."""
    await ctx.run_typed("step", step)


@bench.handler()
async def chain(ctx: restate.Context) -> None:
    """Steps, each after the one before."""
    for number in range(STEPS):
        await ctx.run_typed(f"step-{number}", step)


@bench.handler()
async def noted_chain(ctx: restate.Context, run: str) -> None:
    """Like `chain`, noting each step."""
    for number in range(STEPS):
        await ctx.run_typed(f"step-{number}", noted, run=run, index=number)


@bench.handler()
async def fan_out(ctx: restate.Context, width: int) -> int:
    """Run *width* steps at the same time within this invocation, and gather.

    Calls of *width* handlers would go to any worker, and take twice the CPU.
    """
    done = await restate.gather(*[ctx.run_typed(f"step-{n}", step) for n in range(width)])
    return len(done)


app = restate.app(services=[bench])
