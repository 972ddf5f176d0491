"""Which contexts and functions an expression may use, by the place where it stands. Data only.

The table is GitHub's ("Contexts reference", "Context availability"), with `run` beside `github`.
Places that the coordinator evaluates know neither `secrets` nor `runner` nor files: these are on
the worker alone, so GitHub's table is narrower there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

ALL = frozenset(
    (
        "inputs", "env", "vars", "secrets", "needs", "strategy", "matrix", "job", "jobs", "steps",
        "tasks", "runner", "run", "github", "loop", "event",
        "failure",
    )
)  # fmt: skip
"""Every context; the variables of loops come on top."""


class Place(NamedTuple):
    """What may be named in one place of a file."""

    contexts: frozenset[str]
    files: bool = False
    """The worker evaluates it, so `hashFiles` is there."""


_BASE = frozenset(("github", "run", "inputs", "vars"))
_LEG = _BASE | {"needs", "strategy", "matrix"}
_STEP = _LEG | {"job", "env", "steps"}

RUN = Place(_BASE)
"""`run-name`, `concurrency` and defaults of inputs of the workflow."""
RUN_ENV = Place(_BASE | {"secrets"})
RUN_DEFAULTS = Place(_BASE | {"env"})
CALL_OUTPUTS = Place(_BASE | {"jobs"})
EVENT = Place(frozenset(("event", "vars")))

JOB_IF = Place(_BASE | {"needs"})
"""Also `strategy`: what decides on the legs of a matrix cannot see one."""
JOB = Place(_LEG)
JOB_ENV = Place(_LEG | {"secrets"})
JOB_DEFAULTS = Place(_LEG | {"env"})
JOB_OUTPUTS = Place(_STEP)

STEP = Place(_STEP)
"""What the coordinator evaluates of a step: its time limit, its control nodes."""
STEP_IF = Place(_STEP | {"runner"}, files=True)
"""`if` of a step that runs on a worker."""
STEP_NAME = Place(_STEP | {"runner", "secrets"}, files=True)
STEP_WORK = Place(_STEP | {"runner", "secrets"}, files=True)
"""`run`, `with`, `env` and the like: the worker evaluates what only it can."""

HINTS: Mapping[str, str] = {
    "secrets": "give it to a step by 'env:' or 'with:'; a condition can test 'env.NAME'",
    "runner": "only the worker knows it: use it in a step's 'if', 'run', 'with' or 'env'",
    "jobs": "only outputs of 'on.workflow_call' see 'jobs'; use 'needs.<job>.outputs' here",
    "matrix": "the legs of the matrix do not exist yet here",
    "strategy": "the legs of the matrix do not exist yet here",
    "steps": "the steps have not run yet here; use 'needs.<job>.outputs'",
    "env": "use 'vars' or 'inputs' here",
    "job": "no job runs yet here",
    "needs": "no job has run yet here",
    "failure": "only handlers and compensations see it; conditions have 'failure()'",
    "event": "only 'on.event' sees the event: give what is needed by its 'inputs:', and use "
    "'inputs' here",
}
"""By context, what to do where it is not available."""

PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "job": ("status",),
    "runner": ("name", "os", "arch", "temp", "tool_cache", "debug", "environment", "workspace"),
    "strategy": ("fail-fast", "job-index", "job-total", "max-parallel"),
    "failure": ("step", "kind", "error", "attempt"),
    "loop": ("index", "item", "previous"),
    "event": ("id", "subject", "namespace", "time", "sequence", "headers", "data"),
}
"""Properties of contexts that are the same everywhere."""
ITEMS: Mapping[str, tuple[str, ...]] = {
    "steps": ("outputs", "outcome", "conclusion"),
    "needs": ("outputs", "result"),
    "jobs": ("outputs", "result"),
    "tasks": ("outputs", "output", "result", "status"),
}
"""What each item of a context has."""
RUN_PROPERTIES = (
    "id", "run_id", "key", "namespace", "workflow", "name", "priority", "created_ms", "labels",
    "event_name", "event", "run_attempt", "job", "actor",
)  # fmt: skip
"""Properties of `run`, and of `github` as far as they have a meaning."""
_NO_REPOSITORY = "runs belong to no repository; declare an input and pass it"
GITHUB_HINTS: Mapping[str, str] = {
    **dict.fromkeys(
        ("sha", "ref", "ref_name", "ref_type", "ref_protected", "head_ref", "base_ref",
         "repository", "repository_owner", "repository_id", "repository_owner_id", "repositoryUrl",
         "workflow_ref", "workflow_sha"),
        _NO_REPOSITORY,
    ),
    "token": "there is no token of GitHub; use a secret",
    "run_number": "runs are not counted; use 'github.run_id'",
    "workspace": "write $GITHUB_WORKSPACE in the script; steps start there",
    "server_url": "there is no server of GitHub; use 'vars'",
    "api_url": "there is no server of GitHub; use 'vars'",
    "graphql_url": "there is no server of GitHub; use 'vars'",
    "env": "write $GITHUB_ENV in the script",
    "path": "write $GITHUB_PATH in the script",
    "action": "actions of GitHub do not run here",
    "action_path": "actions of GitHub do not run here",
    "action_ref": "actions of GitHub do not run here",
    "action_repository": "actions of GitHub do not run here",
    "triggering_actor": "use 'github.actor'",
    "actor_id": "use 'github.actor'",
    "event_path": "use 'github.event'",
    "retention_days": "retention is a setting of the namespace",
    "secret_source": "secrets come from the worker",
}  # fmt: skip
"""By property of GitHub's that has no meaning here, what to use instead."""
