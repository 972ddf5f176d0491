"""The workflows of the load: each of them is a promise that some fault might break."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from headrace.language import compile_workflow
from headrace.plan import Plan

FAN = 12
SLEEP_MS = 600
LIMITS = {"single": 1, "pair": 2}
"""Concurrency groups of the load -> how many runs may hold them at a time."""
LOCK = "store"
_RETRY = {"max-attempts": 6, "initial": "50ms", "max": "400ms", "jitter": 0.5}


def _note(name: str, *after: str, ms: int = 20, **more: Any) -> dict[str, Any]:
    config = {"witness": "${{ inputs.witness }}", "ms": ms}
    config |= {key: more.pop(key) for key in ("failures", "what") if key in more}
    task = {"name": name, "type": "rounds/note", "config": config, **more}
    return task | ({"depends_on": list(after)} if after else {})


def _undone(name: str, *after: str) -> dict[str, Any]:
    undo = {"type": "rounds/note", "config": {"witness": "${{ inputs.witness }}", "ms": 10}}
    return _note(name, *after, compensate=undo)


def _flow(name: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    inputs = {"witness": {"type": "string", "required": True}}
    return {"name": name, "inputs": inputs, **more, "tasks": list(tasks)}


def _held(group: str) -> dict[str, Any]:
    settings = {"group": group, "queue": "max", "limit": LIMITS[group]}
    return _flow(group, _note("hold", ms=40, what=f"key {group}"), concurrency=settings)


_ITEM = {"witness": "${{ inputs.witness }}", "ms": 40}
_CALL = {"uses": "./chain.yaml", "with": {"witness": "${{ inputs.witness }}"}}

FLOWS: Mapping[str, dict[str, Any]] = {
    flow["name"]: flow
    for flow in (
        _flow("probe", _note("it", ms=1)),
        _flow(
            "chain",
            _note("first", ms=120),
            _note("flaky", "first", failures=2, retry=_RETRY),
            _note("last", "flaky", **{"runs-on": "green"}),
        ),
        _flow(
            "timer",
            _note("before", what="before"),
            {
                "name": "nap",
                "type": "sleep",
                "depends_on": ["before"],
                "config": {"duration": f"{SLEEP_MS}ms"},
            },
            _note("after", "nap", what="after"),
        ),
        _held("single"),
        _held("pair"),
        _flow("locked", _note("hold", ms=30, what=f"key {LOCK}", lock=LOCK)),
        _flow(
            "once",
            _note("ahead"),
            _note(
                "pay", "ahead", ms=200, what="once", effect="at-most-once", **{"on-unknown": "fail"}
            ),
            _note("told", "pay", **{"runs-on": "green"}),
        ),
        _flow(
            "asked",
            _note("pay", ms=300, what="once", effect="at-most-once", **{"on-unknown": "wait"}),
            _note("told", "pay"),
        ),
        _flow(
            "parent",
            {"name": "child", "type": "subworkflow", "config": _CALL},
            _note("told", "child"),
        ),
        _flow(
            "fan",
            {
                "name": "each",
                "type": "loop",
                "config": {"for-each": list(range(FAN)), "max-parallel": 6},
                "tasks": [{"name": "it", "type": "rounds/note", "config": _ITEM}],
            },
            _note("join", "each", **{"runs-on": "green"}),
        ),
        _flow(
            "saga",
            _undone("hotel"),
            _undone("flight", "hotel"),
            _note("charge", "flight", failures=99),
            **{"on-failure": "compensate"},
        ),
        _flow(
            "signalled",
            {"name": "paid", "type": "wait", "config": {"signal": "paid"}},
            _note("ship", "paid"),
            {
                "name": "release",
                "type": "approval",
                "depends_on": ["ship"],
                "config": {"signal": "release"},
            },
            _note("done", "release"),
        ),
        _flow("paused", _note("one"), _note("two", "one"), _note("three", "two")),
        _flow(
            "cancelled",
            _note("begun"),
            {
                "name": "long",
                "type": "sleep",
                "depends_on": ["begun"],
                "config": {"duration": "1h"},
            },
            _note("never", "long"),
        ),
        {
            "name": "job",
            "on": {"workflow_dispatch": {"inputs": {"witness": {"required": True}}}},
            "jobs": {
                "it": {
                    "steps": [
                        {"id": name, "uses": "rounds/note", "with": dict(_ITEM)}
                        for name in ("one", "two", "three")
                    ]
                }
            },
        },
        _flow("tick", _note("it", what="tick")),
    )
}
"""Name -> the file. `probe` and `tick` are not part of the mix."""

MIX = {
    "chain": 3,
    "timer": 2,
    "single": 2,
    "pair": 2,
    "locked": 2,
    "once": 4,
    "asked": 1,
    "parent": 2,
    "fan": 1,
    "saga": 2,
    "signalled": 2,
    "paused": 1,
    "cancelled": 1,
    "job": 1,
}
"""Kind -> its share of the load."""

ENDS = {
    "saga": ("FAILED",),
    "cancelled": ("CANCELLED",),
    "once": ("COMPLETED", "FAILED"),
}
"""Kind -> the states that its runs may end in; others must be COMPLETED."""


@cache
def plan(kind: str) -> Plan:
    """Return the plan of one kind of run."""
    text = yaml.safe_dump(FLOWS[kind], sort_keys=False)

    def load(path: str) -> str:
        return yaml.safe_dump(FLOWS[path.removeprefix("./").removesuffix(".yaml")])

    return compile_workflow(text, file=f"{kind}.yaml", allow_unknown=True, load=load)


ORDERS = {
    "chain": [("first", "flaky"), ("flaky", "last")],
    "once": [("ahead", "pay"), ("pay", "told")],
    "asked": [("pay", "told")],
    "timer": [("before", "after")],
    "signalled": [("ship", "done")],
    "paused": [("one", "two"), ("two", "three")],
    "job": [("it/one", "it/two"), ("it/two", "it/three")],
}
FANS = {"fan": ("each", FAN, "join")}
UNDONE = {"saga": ["flight~compensate", "hotel~compensate"]}
SLEEPS = {"timer": ("before", "after", SLEEP_MS)}
