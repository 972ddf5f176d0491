"""What `rerun` and `reset` take over from the old run. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from headrace.errors import InvalidRequest
from headrace.messages import StepView, encode
from headrace.plan import Group, Loop, Node, Plan, Task

LEAVES = frozenset(("task", "wait", "sleep"))
"""Kinds of nodes that do something; containers begin and end again by themselves."""

_ITEM = re.compile(r"\[[^\]]*\]")
_LAST_ITEM = re.compile(r"\[[^\]]*\]$")
_UNDONE = re.compile(r"~compensate(/.*)?$")
_SLASH = re.compile(r"/(?![^\[]*\])")


def carried_results(
    steps: Iterable[StepView], plan: Plan, *, again: Iterable[str] = ()
) -> dict[str, bytes]:
    """Return path -> recorded outputs (a msgpack map) of the steps that need not run again.

    The steps of a job share a workspace folder that is gone: so a job is taken over as a whole,
    when none of its steps is left to run, or not at all. *again*: paths of what is to run again
    whatever it has recorded, with all that is below.
    """
    forced = frozenset(again)
    found = list(steps)
    undone = {_UNDONE.sub("", step.path) for step in found if _UNDONE.search(step.path)}
    # What handled a failure belongs to that failure; what was undone has to be done again.
    views = [step for step in found if step.kind in LEAVES and "~" not in step.path]
    jobs = _affinity_paths(plan)
    begun = {
        job
        for step in views
        if (step.state not in ("COMPLETED", "SKIPPED") or step.path in undone)
        and (job := _place_in(step.path, jobs))
    }
    return {
        step.path: encode(step.outputs if isinstance(step.outputs, dict) else {})
        for step in views
        if step.kind == "task"
        and step.state == "COMPLETED"
        and step.path not in undone
        and _place_in(step.path, jobs) not in begun
        and forced.isdisjoint((step.path, *_above(step.path)))
    }


def check_has_steps(run: str, plan: Plan) -> None:
    """Raise `InvalidRequest` for a workflow function: each run of it has a journal of its own."""
    if any(isinstance(node, Task) and node.code for node in plan.nodes):
        raise InvalidRequest(
            f"run {run} is a workflow function: results of its steps cannot be taken over; "
            f"`flowctl rerun {run}` starts it from the beginning"
        )


def from_step(steps: Sequence[StepView], plan: Plan, first: str) -> set[str]:
    """Return the paths of *first* and of all that comes after it, as `carried_results` wants them.

    After it comes what needs it, or needs a container that holds it; the rest of its job, whose
    workspace is gone; and all of a repetition around it, as an iteration follows from the one
    before. Raises `InvalidRequest` for a path that the run does not have.
    """
    if all(step.path != first for step in steps):
        raise InvalidRequest(f"the run has no step {first} (`flowctl get` shows the paths)")
    jobs = _affinity_paths(plan)
    repeats = _paths(plan, lambda node: isinstance(node, Loop) and node.kind == "repeat")
    again: set[str] = set()
    holding: set[str] = set()
    fresh = [first]
    while fresh:
        for path in fresh:
            job = _place_in(path, jobs)
            loop = _LAST_ITEM.sub("", _place_in(path, repeats))
            for found in filter(None, (path, job, loop)):
                again.add(found)
                holding.update(_above(found))
        reached = again | holding
        fresh = [
            step.path
            for step in steps
            if step.path not in again and not reached.isdisjoint(step.needs)
        ]
    return again


def _above(path: str) -> list[str]:
    """Return the paths of all containers of *path*: of `a[1]/b`, `a[1]` and `a`."""
    found: list[str] = []
    segments = _SLASH.split(path)
    for length in range(1, len(segments) + 1):
        place = "/".join(segments[:length])
        found += [place, _LAST_ITEM.sub("", place)]
    return [place for place in found if place != path]


def _affinity_paths(plan: Plan) -> set[tuple[str, ...]]:
    """Return the paths, without item marks, of all groups that run on one worker."""
    return _paths(plan, lambda node: isinstance(node, Group) and node.affinity)


def _paths(plan: Plan, wanted: Callable[[Node], bool]) -> set[tuple[str, ...]]:
    """Return the paths, without item marks, of all nodes that are *wanted*.

    The body of a loop stands at the loop's own place: `build[linux]`, not `build[linux]/body`.
    """
    found: set[tuple[str, ...]] = set()
    paths: list[tuple[str, ...]] = [()]
    for node in plan.nodes[1:]:
        above = paths[node.parent]
        paths.append(above if isinstance(plan.nodes[node.parent], Loop) else (*above, node.name))
        if wanted(node):
            found.add(paths[-1])
    return found


def _place_in(path: str, places: set[tuple[str, ...]]) -> str:
    """Return the outermost of *places* that *path* is in, with its item marks, or nothing."""
    segments = _SLASH.split(path)
    bare = [_ITEM.sub("", segment) for segment in segments]
    for length in range(1, len(segments) + 1):
        if tuple(bare[:length]) in places:
            return "/".join(segments[:length])
    return ""
