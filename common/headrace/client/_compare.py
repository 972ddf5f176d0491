"""What differs between two runs: definition, input, labels, and what became of each step. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from headrace.messages import RunView, StepView
from headrace.plan import Plan, node_facts, node_paths, plan_facts

DEPTH_MAX: Final = 16
"""So deep maps are looked into; what is deeper is compared as one value."""


class Difference(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing that is not the same; what only one run has leaves the other side out."""

    what: str
    """`definition`, `input`, `labels`, `run` or `step`."""
    path: str = ""
    """Of the node or the step; empty: of the whole."""
    key: str = ""
    """Within it: `inputs.script`; empty: it is there in one of them only."""
    left: Any = msgspec.UNSET
    right: Any = msgspec.UNSET

    @property
    def change(self) -> str:
        """`added`, `removed` or `changed`, seen from the left run."""
        if self.left is msgspec.UNSET:
            return "added"
        return "removed" if self.right is msgspec.UNSET else "changed"


class Duration(msgspec.Struct, kw_only=True):
    """How long a step took, or has taken so far; None: it has not started, or is not there."""

    path: str
    left_ms: int | None
    right_ms: int | None


class Comparison(msgspec.Struct, kw_only=True):
    """Two runs, side by side. Durations are shown, and are no differences."""

    left: RunView
    right: RunView
    differences: list[Difference]
    durations: list[Duration]
    """Of the run (path "") and of every step that either has."""


def compare(left: RunView, right: RunView, plans: tuple[Plan, Plan], *, now_ms: int) -> Comparison:
    """Compare two runs with their *plans*; *now_ms* ends what has not ended.

    Ids, times, workers, and where a run is kept, are not compared.
    """
    found = [
        *_definition(*plans),
        *_values("input", _given(left.input), _given(right.input)),
        *_values("labels", left.labels, right.labels),
        *_values("run", _run(left), _run(right)),
        *_steps(left, right),
    ]
    sides = [{step.path: step for step in view.steps} for view in (left, right)]
    durations = [Duration(path="", left_ms=_length(left, now_ms), right_ms=_length(right, now_ms))]
    for path in dict.fromkeys((*sides[0], *sides[1])):
        lengths = [_length(side.get(path), now_ms) for side in sides]
        if lengths != [None, None]:
            durations.append(Duration(path=path, left_ms=lengths[0], right_ms=lengths[1]))
    return Comparison(left=left, right=right, differences=found, durations=durations)


def _definition(left: Plan, right: Plan) -> Iterator[Difference]:
    yield from _values("definition", plan_facts(left), plan_facts(right))
    paths = node_paths(left), node_paths(right)
    nodes = [
        dict(zip(found, plan.nodes, strict=True))
        for found, plan in zip(paths, (left, right), strict=True)
    ]
    for path in dict.fromkeys((*paths[0], *paths[1])):
        old, new = nodes[0].get(path), nodes[1].get(path)
        if old is None:
            assert new is not None
            yield Difference(what="definition", path=path, right=node_facts(new, paths[1]))
        elif new is None:
            yield Difference(what="definition", path=path, left=node_facts(old, paths[0]))
        else:
            facts = node_facts(old, paths[0]), node_facts(new, paths[1])
            yield from _values("definition", *facts, path=path)


def _given(value: Any) -> Any:
    """Return a map for nothing: what has no outputs has no keys."""
    return {} if value is None else value


def _run(view: RunView) -> dict[str, Any]:
    return {
        "workflow": view.workflow,
        "name": view.name,
        "state": view.state,
        "reason": view.reason,
        "priority": view.priority,
        "output": _given(view.output),
    }


def _step(step: StepView) -> dict[str, Any]:
    return {
        "kind": step.kind,
        "uses": step.uses,
        "state": step.state,
        "attempt": step.attempt,
        "outcome": step.outcome,
        "conclusion": step.conclusion,
        "error": step.error,
        "outputs": _given(step.outputs),
        "annotations": step.annotations,
        "summary": step.summary,
    }


def _steps(left: RunView, right: RunView) -> Iterator[Difference]:
    old = {step.path: step for step in left.steps}
    new = {step.path: step for step in right.steps}
    for path in dict.fromkeys((*old, *new)):
        if path not in old:
            yield Difference(what="step", path=path, right=_told(new[path]))
        elif path not in new:
            yield Difference(what="step", path=path, left=_told(old[path]))
        else:
            yield from _values("step", _step(old[path]), _step(new[path]), path=path)


def _told(step: StepView) -> dict[str, Any]:
    """Return what a step is, without what it has not got."""
    return {key: value for key, value in _step(step).items() if value not in (None, "", [], 0, {})}


def _length(view: RunView | StepView | None, now_ms: int) -> int | None:
    if view is None or not view.started_ms:
        return None
    return max((view.finished_ms or now_ms) - view.started_ms, 0)


def _values(what: str, left: Any, right: Any, *, path: str = "") -> Iterator[Difference]:
    for key, old, new in _unequal(left, right, "", 0):
        yield Difference(what=what, path=path, key=key, left=old, right=new)


def _unequal(left: Any, right: Any, key: str, depth: int) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, left, right) of all that is not the same, as deep as it can be told."""
    if isinstance(left, dict) and isinstance(right, dict) and depth < DEPTH_MAX:
        for name in dict.fromkeys((*left, *right)):
            below = f"{key}.{name}" if key else str(name)
            old, new = left.get(name, msgspec.UNSET), right.get(name, msgspec.UNSET)
            yield from _unequal(old, new, below, depth + 1)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (old, new) in enumerate(zip(left, right, strict=True)):
            below = f"{key}[{number}]"
            if depth < DEPTH_MAX:
                yield from _unequal(old, new, below, depth + 1)
            elif not _same(old, new):
                yield below, old, new
    elif not _same(left, right):
        yield key, left, right


def _same(left: Any, right: Any) -> bool:
    """Tell whether two values are the same JSON: 1 is not true."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
