"""Random plans for the core's property tests: every kind of node, nested, with all options."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from headrace.plan import Plan, TriggerRule
from support import plans
from support.plans import Spec

CONDITIONS = ("", "", "", "always()", "failure()", "cancelled()", "!cancelled()", "false", "1 == 1")
RULES = [None] * 6 + [*get_args(TriggerRule)]
JOINS = [plans.join("all")] * 3 + [
    plans.join(kind, value, losers)
    for kind, value in (("any", 0), ("count", 2), ("percent", 50))
    for losers in ("cancel", "detach", "await")
]


@st.composite
def tasks(draw: st.DrawFn, name: str) -> Spec:
    """A task with random options."""
    options: dict[str, Any] = {"condition": draw(st.sampled_from(CONDITIONS))}
    if draw(st.integers(0, 5)) == 0:
        options["sticky"] = draw(st.sampled_from(["k", "${{ run.id }}"]))
    feature = draw(st.integers(0, 15))
    if feature == 0:
        options["retry"] = plans.retry(draw(st.integers(2, 3)), initial_ms=700)
    elif feature == 1:
        options["effect"] = "at-most-once"
    elif feature == 2:
        options["continue_on_error"] = True
    elif feature == 3:
        options["schedule_timeout_ms"] = 5_000
    elif feature == 4:
        options["timeout_ms"] = 4_000
        options["retry"] = plans.retry(3, initial_ms=3_000)
    elif feature == 5:
        options["inputs"] = {"x": "${{ toJSON(tasks) }}", "y": "${{ steps }}"}
    elif feature == 6:
        options["env"] = {"E": "${{ env.F }}-${{ job.status }}"}
    elif feature in (7, 8):
        limits = {"ttl_ms": 5_000, "timeout_ms": 6_000}
        chosen = draw(st.sampled_from(["", "ttl_ms", "timeout_ms"]))
        limits = {chosen: limits[chosen]} if chosen else {}
        options["lock"] = plans.lock(draw(st.sampled_from(["l1", "l2"])), **limits)
    elif feature == 10:
        options["cache"] = plans.cached(draw(st.sampled_from(["c1", "c2"])))
    if feature in (8, 9):
        options["rate_limit"] = plans.rate("x", draw(st.integers(1, 2)), 3_000)
    return plans.task(name, **options)


@st.composite
def leaves(draw: st.DrawFn, name: str) -> Spec:
    """Mostly a task; a wait or a sleep now and then."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        limit = draw(st.sampled_from([None, 3_000]))
        return plans.wait(
            name,
            draw(st.sampled_from(["s1", "s2"])),
            timeout_ms=limit,
            has_default=draw(st.booleans()),
        )
    if kind == 1:
        return plans.sleep(name, draw(st.sampled_from([0, 1_000, 4_000])))
    return draw(tasks(name))


@st.composite
def nodes(draw: st.DrawFn, name: str, depth: int) -> Spec:
    """A node and what is below it."""
    kind = draw(st.integers(0, 9)) if depth > 0 else 0
    if kind <= 4:
        return draw(leaves(name))
    options: dict[str, Any] = {
        "condition": draw(st.sampled_from(CONDITIONS)),
        "timeout_ms": draw(st.sampled_from([None, None, None, 6_000])),
        "continue_on_error": draw(st.integers(0, 5)) == 0,
    }
    if kind == 5:
        children = draw(siblings(name, depth - 1, graph=False))
        return plans.choice(name, *children, **options)
    if kind in (6, 7):
        body = draw(nodes(f"{name}b", depth - 1))
        if draw(st.integers(0, 2)) == 0:
            times = draw(st.integers(0, 3))
            options["before"] = draw(st.sampled_from(["", "loop.index < 2"]))
            options["after"] = draw(st.sampled_from(["", "loop.index == 1"]))
            return plans.repeat(name, body, times, **options)
        if draw(st.integers(0, 3)) == 0:
            return plans.broadcast(
                name,
                body,
                max_parallel=draw(st.sampled_from([None, 1, 2])),
                fail_fast=draw(st.booleans()),
                join=draw(st.sampled_from(JOINS)),
                on_worker_loss=draw(st.sampled_from(["fail", "skip"])),
                **options,
            )
        items: Any = list(range(draw(st.integers(0, 4))))
        if draw(st.booleans()):
            options["kind"] = "matrix"
            items = {"a": items or [0], "include": [{"b": 1}]}
        return plans.loop(
            name,
            body,
            items,
            max_parallel=draw(st.sampled_from([None, 1, 2])),
            fail_fast=draw(st.booleans()),
            join=draw(st.sampled_from(JOINS)),
            **options,
        )
    if draw(st.integers(0, 3)) == 0:
        options["concurrency"] = plans.key(
            # One order of keys for all: outer ones first. Else runs could wait for each other.
            f"k{depth}",
            cancel_in_progress=draw(st.integers(0, 3)) == 0,
            queue=draw(st.sampled_from(["max", "max", "single"])),
        )
    form = draw(st.sampled_from(["graph", "graph", "parallel", "pipeline", "job", "workspace"]))
    options["join"] = draw(st.sampled_from(JOINS))
    if form in ("job", "workspace"):
        options["affinity"] = True
        options["on_worker_loss"] = draw(st.sampled_from(["restart-job", "continue", "fail"]))
        options["cancel_timeout_ms"] = draw(st.sampled_from([None, None, 2_000]))
    options["kind"] = "graph" if form == "workspace" else form
    children = draw(siblings(name, depth - 1, graph=options["kind"] not in plans.SEQUENCES))
    if draw(st.integers(0, 4)) == 0:
        options["outputs"] = {"all": "${{ toJSON(steps) }}", "raw": "${{ tasks }}"}
    return plans.group(name, *children, **options)


@st.composite
def siblings(draw: st.DrawFn, prefix: str, depth: int, *, graph: bool) -> list[Spec]:
    """One to three nodes; in a graph each may need earlier ones."""
    found: list[Spec] = []
    for index in range(draw(st.integers(1, 3))):
        spec = draw(nodes(f"{prefix}{index}", depth))
        if graph and found:
            names = [other.name for other in found]
            needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
            rule = draw(st.sampled_from(RULES))
            if needs and rule is not None:
                spec = spec._replace(options={**spec.options, "trigger_rule": rule})
            spec = spec._replace(needs=tuple(needs))
        found.append(spec)
    return found


@st.composite
def whole_plans(draw: st.DrawFn, depth: int = 3) -> Plan:
    """A plan with random options."""
    concurrency = None
    if draw(st.integers(0, 4)) == 0:
        concurrency = plans.key(
            draw(st.sampled_from(["k8", "k9"])),
            limit=draw(st.integers(1, 2)),
            cancel_in_progress=draw(st.booleans()),
            queue=draw(st.sampled_from(["max", "single"])),
        )
    return plans.plan(
        *draw(siblings("n", depth, graph=True)),
        root={"join": draw(st.sampled_from([*JOINS[:2], *JOINS]))},
        timeout_ms=draw(st.sampled_from([None, None, 4_000])),
        concurrency=concurrency,
    )
