"""Plans that the loss of a worker hurts: jobs with a workspace, effects that may happen once."""

from __future__ import annotations

import random

from headrace.plan import Group, Node, Plan, Task, validate_plan
from support.sim.plans import HANDLER

SLOW = "slow"
"""Steps of this kind take long enough for somebody to die in the middle of them."""


def fragile(rng: random.Random) -> Plan:
    """Return such a plan; each part takes a second or two."""
    nodes: list[Node] = [Group(name="", size=1, kind="graph")]
    if rng.random() < 0.8:
        _add_job(rng, nodes)
    if len(nodes) == 1 or rng.random() < 0.6:
        nodes.append(
            Task(
                name="once",
                parent=0,
                uses=HANDLER,
                inputs={"kind": SLOW},
                effect="at-most-once",
                on_unknown="wait" if rng.random() < 0.8 else "fail",
            )
        )
    root = Group(name="", size=len(nodes), kind="graph")
    plan = Plan(name="fragile", nodes=(root, *nodes[1:]))
    validate_plan(plan)
    return plan


def _add_job(rng: random.Random, nodes: list[Node]) -> None:
    """A pipeline in one workspace."""
    at, count = len(nodes), rng.randint(2, 3)
    loss = rng.choice(("restart-job", "restart-job", "continue", "continue", "fail"))
    nodes.append(
        Group(name="job", parent=0, size=count + 1, kind="job", affinity=True, on_worker_loss=loss)
    )
    for number in range(count):
        needs = (at + number,) if number else ()
        inputs = {"kind": SLOW if number else "instant"}
        nodes.append(Task(name=f"s{number}", parent=at, needs=needs, uses=HANDLER, inputs=inputs))
