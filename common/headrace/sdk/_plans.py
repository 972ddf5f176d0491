"""Plans of what is begun from code: a workflow function, one handler elsewhere."""

from __future__ import annotations

from typing import Any

from headrace.plan import Group, Plan, Task
from headrace.retry import RetryPolicy


def code_plan(
    *,
    app: str,
    version: str,
    name: str,
    function: str = "",
    runs_on: tuple[str, ...] = (),
    timeout_ms: int | None = None,
    cancel_timeout_ms: int | None = None,
    schedule_timeout_ms: int = 0,
) -> Plan:
    """Return the plan of a workflow function: its one task is run in turns.

    *function*: its name in the app; empty: *name*. *runs_on*: labels beside those of the app.
    """
    task = Task(
        name=name,
        parent=0,
        uses=f"{app}@{version}/{function or name}",
        runs_on=(f"app:{app}@{version}", *runs_on),
        schedule_timeout_ms=schedule_timeout_ms or None,
        code=True,
    )
    return Plan(
        name=name,
        dialect="code",
        version=version,
        timeout_ms=timeout_ms,
        labels={"app": app},
        nodes=(Group(name=name, size=2, cancel_timeout_ms=cancel_timeout_ms), task),
    )


def task_plan(
    *,
    name: str,
    uses: str,
    inputs: dict[str, Any],
    runs_on: tuple[str, ...],
    retry: RetryPolicy | None = None,
    timeout_ms: int = 0,
    schedule_timeout_ms: int = 0,
) -> Plan:
    """Return a plan of one task; its outputs are the run's."""
    task = Task(
        name="call",
        parent=0,
        uses=uses,
        inputs=inputs,
        runs_on=runs_on,
        retry=retry,
        attempt_timeout_ms=timeout_ms or None,
        schedule_timeout_ms=schedule_timeout_ms or None,
    )
    return Plan(name=name, dialect="code", nodes=(Group(name="call", size=2), task))
