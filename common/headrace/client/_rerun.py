"""What `rerun --failed` takes over from the old run. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from headrace.messages import StepView, encode
from headrace.plan import Group, Loop, Plan

LEAVES = frozenset(("task", "wait", "sleep"))
"""Kinds of nodes that do something; containers begin and end again by themselves."""

_ITEM = re.compile(r"\[[^\]]*\]")
_SLASH = re.compile(r"/(?![^\[]*\])")


def carried_results(steps: Iterable[StepView], plan: Plan) -> dict[str, bytes]:
    """Return path -> recorded outputs (a msgpack map) of the steps that need not run again.

    The steps of a job share a workspace folder that is gone: so a job is taken over as a whole,
    when none of its steps is left to run, or not at all.
    """
    views = [step for step in steps if step.kind in LEAVES]
    jobs = _affinity_paths(plan)
    again = {
        job
        for step in views
        if step.state not in ("COMPLETED", "SKIPPED") and (job := _job_of(step.path, jobs))
    }
    return {
        step.path: encode(step.outputs if isinstance(step.outputs, dict) else {})
        for step in views
        if step.kind == "task"
        and step.state == "COMPLETED"
        and _job_of(step.path, jobs) not in again
    }


def _affinity_paths(plan: Plan) -> set[tuple[str, ...]]:
    """Return the paths, without item marks, of all groups that run on one worker.

    The body of a loop stands at the loop's own place: `build[linux]`, not `build[linux]/body`.
    """
    found: set[tuple[str, ...]] = set()
    paths: list[tuple[str, ...]] = [()]
    for node in plan.nodes[1:]:
        above = paths[node.parent]
        paths.append(above if isinstance(plan.nodes[node.parent], Loop) else (*above, node.name))
        if isinstance(node, Group) and node.affinity:
            found.add(paths[-1])
    return found


def _job_of(path: str, jobs: set[tuple[str, ...]]) -> str:
    """Return the path of the job instance that *path* belongs to, or an empty string."""
    segments = _SLASH.split(path)
    bare = [_ITEM.sub("", segment) for segment in segments]
    for length in range(1, len(segments) + 1):
        if tuple(bare[:length]) in jobs:
            return "/".join(segments[:length])
    return ""
