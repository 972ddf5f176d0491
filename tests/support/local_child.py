"""A program with an embedded engine, to be killed: ``python child.py FOLDER LEVEL FILE``.

Runs one workflow whose steps write their names into FILE; prints ``ready`` when the second step
has begun, then waits for its death.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from headrace.language import HandlerSpec, compile_workflow
from headrace.local import LocalEngine
from headrace.worker.handlers import handler

WORKFLOW = """
name: crash
tasks:
  - {{name: one, type: test/step}}
  - {{name: two, type: test/hold, depends_on: [one]{effect}}}
  - {{name: three, type: test/step, depends_on: [two]}}
"""


def plan(effect=""):
    specs = {name: HandlerSpec(name=name, open=True) for name in ("test/step", "test/hold")}
    return compile_workflow(WORKFLOW.format(effect=effect), file="crash.yaml", handlers=specs)


def handlers(file, entered=None):
    """Return the two handlers; without *entered*, `test/hold` does not hold."""

    def note(ctx):
        with Path(file).open("a") as out:
            out.write(f"{ctx.path} {ctx.attempt}\n")

    @handler("test/step")
    async def step(ctx, inputs: dict):
        note(ctx)
        return {"ran": ctx.attempt}

    @handler("test/hold")
    async def hold(ctx, inputs: dict):
        note(ctx)
        if entered is not None:
            entered()
            await asyncio.Event().wait()
        return {"ran": ctx.attempt}

    return [step, hold]


async def main(folder, level, file, effect):
    made = handlers(file, lambda: print("ready", flush=True))
    async with LocalEngine(persistence=level, path=folder, handlers=made) as engine:
        await engine.run(plan(effect), run_id="crash")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]))
