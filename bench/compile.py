"""What it takes to compile a large workflow, and to find what is ready in it.

``python bench/compile.py [NODES]`` writes DAGs of so many nodes (10,000) in both dialects, each
job needing two before it, and prints what the compiler takes, and what one node costs in runs of a
twentieth, a quarter and all of the nodes on the embedded engine: the same, if only what changed is
looked at. Times are those of the CPU, so that a busy machine tells the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from headrace.coordinator.core.program import Program
from headrace.language import compile_workflow
from headrace.local import run
from headrace.plan import Plan, encode_plan, plan_digest

ROUNDS = 3
PARTS = (20, 4, 1)


def tasks(count: int) -> str:
    """Return a workflow of *count* tasks; each needs the one before it and one half as far."""
    lines = ["name: dag", "tasks:"]
    for number in range(count):
        needs = sorted({number - 1, number // 2} - {number}) if number else []
        listed = ", ".join(f"t{need}" for need in needs)
        lines.append(f"  - {{name: t{number}, type: noop, depends_on: [{listed}]}}")
    return "\n".join(lines)


def jobs(count: int) -> str:
    """Return a workflow of *count* nodes: jobs of one step, whose conditions read a need."""
    lines = ["name: dag", "jobs:"]
    for number in range(count // 2):
        lines.append(f"  j{number}:")
        if number:
            needs = sorted({number - 1, number // 2} - {number})
            lines.append(f"    needs: [{', '.join(f'j{need}' for need in needs)}]")
            lines.append(f"    if: needs.j{needs[0]}.result == 'success'")
        lines.append("    steps:")
        lines.append(f"      - run: echo ${{{{ github.run_id }}}} {number}")
    return "\n".join(lines)


def fan(count: int) -> str:
    """Return a workflow of one task that *count* others need."""
    lines = ["name: fan", "tasks:", "  - {name: first, type: noop}"]
    lines += [f"  - {{name: t{n}, type: noop, depends_on: first}}" for n in range(count - 1)]
    return "\n".join(lines)


def best(call: Callable[[], Any]) -> float:
    """Return the CPU time of the cheapest of some rounds, in seconds."""
    taken: list[float] = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        call()
        taken.append(time.process_time() - begun)
    return min(taken)


def compiled(text: str) -> Plan:
    """Return the plan; outside of what is measured."""
    return compile_workflow(text, file="bench.yaml")


def main() -> None:
    """Print the figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name, make in (("tasks", tasks), ("jobs", jobs), ("fan", fan)):
        text = make(count)
        plan = compiled(text)
        taken = best(partial(compiled, text))
        digest = best(partial(plan_digest, plan))
        program = best(partial(Program, plan, "x", "default", frozenset({"noop"})))
        print(
            f"{name:6} {len(plan.nodes):7,} nodes  {len(text) / 1e6:5.2f} MB  "
            f"compile {taken:6.3f} s  digest {digest:6.3f} s  program {program:6.3f} s  "
            f"plan {len(encode_plan(plan)) / 1e6:5.2f} MB"
        )
    for part in PARTS:
        nodes = max(count // part, 2)
        plan = compiled(tasks(nodes))
        taken = best(partial(run, plan))
        print(f"run    {nodes:7,} nodes  {taken / nodes * 1e6:6.1f} us a node")


if __name__ == "__main__":
    main()
