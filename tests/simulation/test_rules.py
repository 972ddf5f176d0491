"""What the rules of the worlds are about, and what they are made of."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from headrace.plan import Plan
from support.sim import homes, registry, runs
from support.sim.extras import Extras
from support.sim.features import (
    EVENTS,
    NAMES,
    NEVER,
    NODES,
    REQUESTS,
    UNJUDGED,
    known,
    of_plan,
    options,
)
from support.sim.functions import play
from support.sim.people import library, orders
from support.sim.plans import PlanMaker

HERE = Path(runs.__file__).parent
OF_LOGS = ("PlanStored", "RunEvicted", "SnapshotRegistered", "RequestSeen")
OF_SCHEDULES = ("ScheduleCreated", "SchedulePaused", "ScheduleFired")
RULES = (
    "answers",
    "comebacks",
    "family",
    "gates",
    "homes",
    "instances",
    "jobs",
    "journal",
    "loops",
    "oracle",
    "record",
    "registry",
    "runs",
    "schedules",
    "turns",
    "undoing",
)


def test_every_fact_has_a_rule_or_a_reason_why_not() -> None:
    judged = {NAMES[tag] for tag in (*runs._HANDLERS, *homes._HANDLERS, *registry._HANDLERS)}
    judged |= {*OF_LOGS, *OF_SCHEDULES}
    assert set(NAMES.values()) - judged - set(UNJUDGED) == set()
    assert judged & set(UNJUDGED) == set()
    assert set(UNJUDGED) <= set(NAMES.values())


def test_what_is_said_to_be_left_out_exists() -> None:
    names = {name for kind in (*NODES, Plan, *REQUESTS) for name in options(kind)}
    names |= {kind.__name__ for kind in EVENTS}
    fields = {name.partition(".")[2] for name in names}
    gone = [left for left in NEVER if left not in names and left.removeprefix("*.") not in fields]
    assert gone == []


def test_plans_of_some_hundred_worlds_say_all_that_a_plan_can() -> None:
    used: set[str] = set()
    for seed in range(400):
        rng, extras = random.Random(seed), Extras(seed, skewed=False)
        maker = PlanMaker(
            rng, keys=True, jobs=True, sagas=seed % 2 == 0, generations=seed % 3, extras=extras
        )
        for plan in (maker.plan("p"), library(rng, seed), orders(rng), play.plan):
            used.update(of_plan(plan))
    kinds = {kind.__name__ for kind in NODES}
    of_plans = {name for kind in (*NODES, Plan) for name in options(kind)} & known()
    assert kinds <= used
    assert of_plans - used == set()


@pytest.mark.parametrize("name", RULES)
def test_rules_share_no_code_with_what_they_judge(name: str) -> None:
    tree = ast.parse((HERE / f"{name}.py").read_text())
    imported = {
        (found.module, alias.name)
        for found in ast.walk(tree)
        if isinstance(found, ast.ImportFrom) and found.module
        for alias in found.names
    }
    used = {(module, part) for module, part in imported if module.startswith("headrace.coord")}
    # How an archived piece is cut into chunks: the chunks themselves are compared.
    assert used <= {("headrace.coordinator.runtime.archiver", "unpack")}
