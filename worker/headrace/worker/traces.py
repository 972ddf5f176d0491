"""Attempts in traces and logs: what a step's code is told, and what is recorded of it."""

from __future__ import annotations

from typing import Final

from headrace.messages import (
    ResultStatus,
    StepResult,
    Task,
    child_of,
    subjects,
    valid_traceparent,
)
from headrace.telemetry import Tracer

_RESULTS: Final = {
    ResultStatus.COMPLETED: "success",
    ResultStatus.FAILED: "failure",
    ResultStatus.CANCELLED: "cancellation",
    ResultStatus.SKIPPED: "skip",
}
"""As the semantic conventions for CI/CD name them."""


class Attempts:
    """The attempts of one worker; without a tracer the submitter's context is handed on."""

    def __init__(self, worker: str, tracer: Tracer | None = None) -> None:
        self._worker, self._tracer = worker, tracer
        self.recorded = tracer is not None
        """Whether anybody wants to know of attempts."""

    def traceparent(self, task: Task) -> str:
        """Return the context for a step's code; empty: the run has none."""
        given = task.options.traceparent if task.options is not None else ""
        if not given or not valid_traceparent(given) or self._tracer is None:
            return given
        return child_of(given, _key(task))

    def ended(self, task: Task, result: StepResult) -> None:
        """Record an attempt, if its run is traced and anybody wants to know."""
        if self._tracer is None or task.options is None:
            return
        given = task.options.traceparent
        outcome = _RESULTS.get(result.status)
        if not given or outcome is None or not valid_traceparent(given):
            return
        namespace, run = subjects.split_key(task.run)
        self._tracer.record(
            f"attempt {task.path}",
            child_of(given, _key(task)),
            given,
            started_ms=result.started_ms,
            ended_ms=result.ended_ms,
            attributes={
                "cicd.pipeline.name": task.options.workflow,
                "cicd.pipeline.run.id": run,
                "cicd.pipeline.task.name": task.path,
                "cicd.pipeline.task.run.id": f"{task.run}/{task.path}#{task.attempt}",
                "cicd.pipeline.task.run.result": outcome,
                "cicd.worker.id": self._worker,
                "messaging.system": "nats",
                "messaging.operation.type": "process",
                "headrace.namespace": namespace,
                "headrace.attempt": task.attempt,
            },
            error=(result.error.type if result.error else "failed") if outcome == "failure" else "",
        )


def _key(task: Task) -> str:
    return f"{task.run}/{task.path}#{task.attempt}.{task.token}"
