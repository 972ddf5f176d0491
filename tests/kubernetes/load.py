"""Load from inside the cluster: submits runs at a steady pace, waits for all, and tells.

Prints one line of JSON: runs by state, how often a step was sent at most, how many were lost, by
the reason that the owner gave, or handed back by a worker that had not begun them, and which of
them more than one attempt has begun, by the lines that each attempt prints first. Runs in the image
of flowctl, with its variables. Usage: load.py SECONDS RUNS_PER_SECOND
"""

import asyncio
import collections
import json
import os
import sys

from headrace.client import Client
from headrace.errors import Unavailable, Unreachable
from headrace.language import compile_workflow

ROUND = """
name: load
jobs:
  first:
    runs-on: linux
    timeout-minutes: 2
    steps: [{run: echo begun; sleep 1}]
  second:
    needs: first
    runs-on: linux
    timeout-minutes: 2
    steps: [{run: echo begun; sleep 1}]
"""
WAIT_S = 240


async def main(seconds, pace):
    """Submit, wait, print."""
    server = os.environ["FLOWCTL_SERVER"]
    access = {"tls_ca_file": os.environ["FLOWCTL_TLS_CA_FILE"]}
    workflow = compile_workflow(ROUND)
    async with await Client.connect(server, timeout_s=30, access=access) as client:
        tasks = []
        for number in range(int(seconds * pace)):
            tasks.append(asyncio.create_task(one(client, workflow, f"load-{number:05d}")))
            await asyncio.sleep(1 / pace)
        views = await asyncio.gather(*tasks)
        lost, returned, twice = collections.Counter(), 0, []
        for view in views:
            if any(step.attempt > 1 for step in view.steps):
                history = await client.history(view.id)
                lost.update(e.data["reason"] for e in history if e.type == "StepLost")
                returned += sum(entry.type == "StepReturned" for entry in history)
                twice += [f"{view.id} {path}" for path in await begun_again(client, view.id)]
    report = {
        "runs": len(views),
        "states": collections.Counter(view.state for view in views),
        "attempts": max(step.attempt for view in views for step in view.steps),
        "lost": lost,
        "returned": returned,
        "twice": twice,
    }
    print(json.dumps(report))


async def begun_again(client, run):
    """Return the steps of a run that more than one attempt has begun."""
    seen = collections.defaultdict(set)
    async for lines in client.logs(run):
        if any(line.text == "begun" for line in lines.lines):
            seen[lines.path].add(lines.attempt)
    return [path for path, attempts in seen.items() if len(attempts) > 1]


async def one(client, workflow, name):
    """Submit one run for as long as nobody answers; return how it ended."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await client.submit(workflow, run_id=f"{os.environ['LOAD']}-{name}")
                return await client.wait(f"{os.environ['LOAD']}-{name}", timeout_s=WAIT_S)
            except (Unavailable, Unreachable):
                await asyncio.sleep(0.5)


asyncio.run(main(float(sys.argv[1]), float(sys.argv[2])))
