"""Spans of what a coordinator does for traced runs: runs, their steps, dispatches, and appends.

A run's span is below its submitter's or begins a trace, steps are below their run, dispatches and
attempts below their step. Ids are made of keys (see `headrace.messages.child_of`), so a successor
ends what another has begun.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from headrace.coordinator.core import Loss, Run
from headrace.coordinator.core import status as states
from headrace.messages import (
    StepResult,
    Task,
    TaskOptions,
    child_of,
    is_root,
    is_sampled,
    step_span,
    subjects,
)
from headrace.telemetry import Clock, Tracer

LINKS_MAX: Final = 128
"""Runs that the span of one append is linked to; the SDK's own limit for a span."""
RESULTS: Final = {
    states.COMPLETED: "success",
    states.FAILED: "failure",
    states.CANCELLED: "cancellation",
    states.SKIPPED: "skip",
    states.UNKNOWN: "failure",
}
"""As the semantic conventions for CI/CD name them."""


def submitted_in(labels: Mapping[str, str] | None) -> str:
    """Return the context that a run with these labels was submitted in; empty: no spans of it."""
    given = labels.get(subjects.TRACE_LABEL, "") if labels else ""
    return given if given and is_sampled(given) else ""


class StepEnd(NamedTuple):
    """A step, or what a workflow function does in one, that has its end. Wall clock, ms."""

    of: str
    """What its span is of, below the run's: see `step_span` and `entry_span`."""
    path: str
    kind: str
    """`task`, `child`, `wait`, or the kind of an entry of a function's journal."""
    ready_ms: int
    ended_ms: int
    result: str
    """`success failure cancellation skip`."""
    error: str = ""
    attempt: int = 0
    """The last one; 0: it has none."""
    worker: str = ""


class Traced(NamedTuple):
    """A run with events in a tick, and what ended of it."""

    run: Run
    steps: Sequence[StepEnd]


class Traces:
    """Of one coordinator."""

    def __init__(self, tracer: Tracer, coordinator: str, clock: Clock) -> None:
        self._record, self._clock = tracer.record, clock
        self._coordinator = coordinator

    def appended(self, shard: int, runs: Sequence[Run], size: int, took_s: float) -> None:
        """Record an append: below the first traced one of the runs in it, linked to the others."""
        spans = [child_of(given, run.key) for run in runs if (given := submitted_in(run.labels))]
        if not spans:
            return
        ended_ms = self._clock.now_ms()
        self._record(
            "append",
            child_of(spans[0], f"append/{secrets.token_hex(8)}"),
            spans[0],
            started_ms=ended_ms - round(took_s * 1_000),
            ended_ms=ended_ms,
            attributes={
                "headrace.coordinator": self._coordinator,
                "headrace.shard": shard,
                "headrace.append.bytes": size,
                "headrace.append.traced_runs": len(spans),
            },
            kind="internal",
            links=spans[1 : 1 + LINKS_MAX],
        )

    def ended(self, run: Run) -> None:
        """Record a run whose end is in the log."""
        given = submitted_in(run.labels)
        if not given:
            return
        result = RESULTS.get(run.state, "failure")
        self._record(
            f"run {run.workflow}",
            child_of(given, run.key),
            "" if is_root(given) else given,
            started_ms=run.created_ms,
            ended_ms=run.finished_ms,
            attributes={**self._about(run), "cicd.pipeline.result": result},
            error="failed" if result == "failure" else "",
            kind="internal",
        )

    def _about(self, run: Run) -> dict[str, str | int]:
        """Return the attributes of every span that is about a run."""
        namespace, name = subjects.split_key(run.key)
        return {
            "cicd.pipeline.name": run.workflow,
            "cicd.pipeline.run.id": name,
            "headrace.namespace": namespace,
            "headrace.coordinator": self._coordinator,
        }

    def stepped(self, run: Run, step: StepEnd) -> None:
        """Record a step whose end is in the log, from when it could begin."""
        parent = child_of(submitted_in(run.labels), run.key)
        attributes = self._about(run) | {
            "cicd.pipeline.task.name": step.path,
            "cicd.pipeline.task.run.result": step.result,
            "headrace.step.kind": step.kind,
        }
        if step.attempt:
            attributes["headrace.attempt"] = step.attempt
        if step.worker:
            attributes["cicd.worker.id"] = step.worker.partition(".")[0]
        self._record(
            f"step {step.path}",
            child_of(parent, step.of),
            parent,
            started_ms=step.ready_ms,
            ended_ms=step.ended_ms,
            attributes=attributes,
            error=step.error if step.result == "failure" else "",
            kind="internal",
        )

    def sent(self, send: Send, lane: str, shard: int, taken_ms: int, lost: str = "") -> None:
        """Record a dispatch: a worker took it at *taken_ms*, or it was *lost* then."""
        task, parent = send.task, send.parent
        namespace, run = subjects.split_key(task.run)
        self._record(
            f"send {lane}",
            child_of(parent, f"send/{task.path}#{task.attempt}.{task.token}"),
            parent,
            started_ms=send.sent_ms,
            ended_ms=taken_ms,
            attributes={
                "messaging.system": "nats",
                "messaging.operation.type": "send",
                "messaging.operation.name": "publish",
                "messaging.destination.name": lane,
                "cicd.pipeline.run.id": run,
                "cicd.pipeline.task.name": task.path,
                "headrace.namespace": namespace,
                "headrace.attempt": task.attempt,
                "headrace.shard": shard,
                "headrace.coordinator": self._coordinator,
            },
            error=lost,
            kind="producer",
        )


class Send(NamedTuple):
    """A traced task that is on its way, or being run."""

    task: Task
    parent: str
    """Context of its step's span."""
    sent_ms: int


class Sends:
    """The traced tasks that one shard has sent and whose end is not known. Wall clock, ms."""

    def __init__(self, traces: Traces, shard: int) -> None:
        self._traces, self._shard = traces, shard
        self._open: dict[tuple[str, int], tuple[Send, str]] = {}

    def begin(self, tasks: Sequence[Task], lane: str, now_ms: int) -> Sequence[Task]:
        """Return *tasks*, the traced ones below their steps' spans."""
        if not any(task.options is not None and task.options.traceparent for task in tasks):
            return tasks
        return [self._begin(task, task.options, lane, now_ms) for task in tasks]

    def _begin(self, task: Task, options: TaskOptions | None, lane: str, now_ms: int) -> Task:
        if options is None or not is_sampled(options.traceparent):
            return task
        of = step_span(task.path, options.round)
        parent = child_of(child_of(options.traceparent, task.run), of)
        # Without its inputs: they may be large, and the step long.
        slim = msgspec.structs.replace(task, inputs=msgspec.Raw(b"\x80"), options=None)
        self._open[task.run, task.step] = (Send(slim, parent, now_ms), lane)
        options = msgspec.structs.replace(options, traceparent=parent)
        return msgspec.structs.replace(task, options=options)

    def taken(self, result: StepResult) -> str:
        """Record the dispatch that led to *result*; return its step's context, empty: none."""
        return self._end(result.run, result.step, result.attempt, result.started_ms)

    def lost(self, losses: Sequence[Loss], now_ms: int) -> None:
        """Record dispatches whose holder is lost."""
        for loss in losses:
            self._end(loss.run, loss.step, loss.attempt, now_ms, loss.reason)

    def forget(self) -> None:
        """The state is another owner's: what is still out there is known by its leases only."""
        self._open.clear()

    def _end(self, run: str, step: int, attempt: int, taken_ms: int, lost: str = "") -> str:
        found = self._open.get((run, step)) if self._open else None
        if found is None or found[0].task.attempt != attempt:
            return ""
        del self._open[run, step]
        self._traces.sent(*found, self._shard, taken_ms, lost)
        return found[0].parent
