"""What the formats show of runs, steps, workers and shards. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from headrace.flowctl._text import one_line, plain, rfc3339, span, table
from headrace.messages import (
    Explanation,
    HistoryEntry,
    RunView,
    ServerInfo,
    ShardInfo,
    StepView,
    WorkerView,
)

_FIRST = {"RUNNING": 0, "FAILED": 1, "UNKNOWN": 1, "WAITING": 2, "DISPATCHED": 3, "READY": 4}


def step_json(step: StepView) -> dict[str, Any]:
    """Return a step for JSON and YAML."""
    return {
        "path": step.path,
        "name": step.name,
        "kind": step.kind,
        "state": step.state,
        "uses": step.uses,
        "attempt": step.attempt,
        "worker": step.worker,
        "reason": step.reason,
        "child": step.child or None,
        "created_at": rfc3339(step.created_ms),
        "started_at": rfc3339(step.started_ms),
        "finished_at": rfc3339(step.finished_ms),
        "error": step.error or None,
        "outputs": step.outputs,
        "outcome": step.outcome or None,
        "conclusion": step.conclusion or None,
        "annotations": step.annotations,
        "summary": step.summary or None,
        "needs": step.needs,
    }


def run_json(run: RunView) -> dict[str, Any]:
    """Return a run for JSON and YAML; times are RFC 3339 in UTC or null."""
    return {
        "id": run.id,
        "namespace": run.namespace,
        "workflow": run.workflow,
        "name": run.name or None,
        "state": run.state,
        "conditions": run.conditions,
        "reason": run.reason,
        "created_at": rfc3339(run.created_ms),
        "started_at": rfc3339(run.started_ms),
        "finished_at": rfc3339(run.finished_ms),
        "labels": run.labels,
        "priority": run.priority,
        "input": run.input,
        "output": run.output,
        "plan": run.plan,
        "rerun_of": run.rerun_of or None,
        "patched": run.patched,
        "parent": run.parent or None,
        "shard": run.shard,
        "archived": run.archived,
        "events": run.events,
        "as_of": rfc3339(run.as_of_ms),
        "steps": [step_json(step) for step in run.steps],
    }


def listed_json(run: RunView) -> dict[str, Any]:
    """Return a run of a list for JSON and YAML: without what a list does not know.

    A key that is not there is not known here; null and [] would say that there is none.
    """
    unknown = {"input", "output", "as_of", "steps"}
    if run.archived:
        unknown |= {"patched", "parent"}
    return {key: value for key, value in run_json(run).items() if key not in unknown}


def entry_json(entry: HistoryEntry) -> dict[str, Any]:
    """Return an event for JSON and YAML."""
    return {
        "number": entry.number,
        "time": rfc3339(entry.time_ms),
        "type": entry.type,
        "path": entry.path,
        "data": entry.data,
    }


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation for JSON and YAML."""
    return {
        "run": explanation.run,
        "state": explanation.state,
        "summary": explanation.summary,
        "reasons": [
            {
                "path": reason.path,
                "state": reason.state,
                "reason": reason.reason,
                "owner": reason.owner,
                "since": rfc3339(reason.since_ms),
                "deadline": rfc3339(reason.deadline_ms),
            }
            for reason in explanation.reasons
        ],
    }


def worker_json(worker: WorkerView) -> dict[str, Any]:
    """Return a worker for JSON and YAML."""
    return {
        "id": worker.id,
        "incarnation": worker.incarnation,
        "namespace": worker.namespace,
        "state": worker.state,
        "capabilities": worker.capabilities,
        "handlers": worker.handlers,
        "versions": worker.versions,
        "problems": worker.problems,
        "slots": worker.slots,
        "free": worker.free,
        "release": worker.release,
        "host": worker.host,
        "started_at": rfc3339(worker.started_ms),
        "last_seen_at": rfc3339(worker.last_seen_ms),
    }


def shard_json(shard: ShardInfo) -> dict[str, Any]:
    """Return a shard for JSON and YAML."""
    return {name: getattr(shard, name) for name in ShardInfo.__struct_fields__}


def info_json(info: ServerInfo) -> dict[str, Any]:
    """Return the cluster for JSON and YAML."""
    return {
        "release": info.release,
        "controller": info.controller,
        "coordinators": info.coordinators,
        "shards": [shard_json(shard) for shard in info.shards],
        "workers": [worker_json(worker) for worker in info.workers],
        "warnings": info.warnings,
        "payload_max": info.payload_max,
        "broker": info.broker,
    }


def labels_text(labels: dict[str, str]) -> str:
    """Return `a=1,b=2`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def state_text(run: RunView) -> str:
    """Return `RUNNING`, or `RUNNING (PAUSED)`."""
    return f"{run.state} ({', '.join(run.conditions)})" if run.conditions else run.state


def run_rows(runs: list[RunView], now_ms: int, *, wide: bool) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a list of runs."""
    header = ["ID", "WORKFLOW", "STATE", "CREATED", "DURATION"]
    if wide:
        header += ["PRIORITY", "SHARD", "LABELS", "REASON"]
    rows: list[list[str]] = []
    named = any(run.name for run in runs)
    if named:
        header.insert(2, "NAME")
    for run in runs:
        row = [
            run.id,
            plain(run.workflow),
            state_text(run),
            rfc3339(run.created_ms) or "",
            span(run.started_ms, run.finished_ms, now_ms),
        ]
        if named:
            row.insert(2, one_line(run.name, 60))
        if wide:
            shard = "archive" if run.archived else str(run.shard)
            row += [str(run.priority), shard, labels_text(run.labels), one_line(run.reason)]
        rows.append(row)
    return header, rows


def step_rows(
    steps: list[StepView], now_ms: int, *, wide: bool
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a run's steps."""
    header = ["STEP", "STATE", "ATTEMPT", "DURATION", "WORKER"]
    header += ["NAME", "USES", "NEEDS", "REASON"] if wide else ["REASON"]
    rows: list[list[str]] = []
    for step in steps:
        row = [
            plain(step.path),
            step.state,
            str(step.attempt or ""),
            span(step.started_ms, step.finished_ms, now_ms),
            step.worker,
        ]
        if wide:
            row += [one_line(step.name, 60), step.uses, ",".join(step.needs)]
        rows.append(
            [*row, one_line(step.error or step.reason or (step.child and f"run {step.child}"))]
        )
    return header, rows


def telling_steps(steps: Sequence[StepView], room: int) -> list[StepView]:
    """Return at most *room* of *steps* in their order: those that say most of where a run is."""
    if len(steps) <= room:
        return list(steps)
    ranked = sorted(steps, key=lambda step: (_FIRST.get(step.state, 9), -step.started_ms))
    kept = {id(step) for step in ranked[:room]}
    return [step for step in steps if id(step) in kept]


def counted_steps(steps: Sequence[StepView]) -> str:
    """Return ``3 steps: 1 completed, 2 running``."""
    counts = sorted(Counter(step.state for step in steps).items())
    return f"{len(steps)} steps: " + ", ".join(f"{n} {state.lower()}" for state, n in counts)


def run_lines(
    run: RunView, now_ms: int, *, wide: bool, colour: bool, steps_max: int | None = None
) -> list[str]:
    """Return a run with its steps, *steps_max* of them at most, for people."""
    if run.as_of_ms:
        now_ms = run.as_of_ms
    facts = [
        ("Run", run.id),
        ("As of", f"event {run.events}, {rfc3339(run.as_of_ms)}" if run.as_of_ms else ""),
        ("Workflow", plain(run.workflow)),
        ("Name", one_line(run.name, 300)),
        ("State", state_text(run)),
        ("Reason", one_line(run.reason, 500)),
        ("Created", rfc3339(run.created_ms) or ""),
        ("Started", rfc3339(run.started_ms) or ""),
        ("Finished", rfc3339(run.finished_ms) or ""),
        ("Duration", span(run.started_ms, run.finished_ms, now_ms)),
        ("Labels", labels_text(run.labels)),
        ("Rerun of", run.rerun_of),
        ("Patched", f"at event {', '.join(map(str, run.patched))}" if run.patched else ""),
        ("Child of", run.parent),
    ]
    if wide:
        facts += [
            ("Priority", str(run.priority)),
            ("Shard", "archive" if run.archived else str(run.shard)),
            ("Plan", run.plan),
        ]
    facts += [("Input", _value(run.input)), ("Output", _value(run.output))]
    shown = [[name, value] for name, value in facts if value]
    lines = table(*_headless(shown), colour=colour)
    if run.steps:
        steps = telling_steps(run.steps, len(run.steps) if steps_max is None else steps_max)
        lines += ["", *table(*step_rows(steps, now_ms, wide=wide), colour=colour)]
        if len(steps) < len(run.steps):
            lines.append(f"… {counted_steps(run.steps)}; -o wide shows them all")
    notes = [note for step in run.steps for note in annotation_lines(step)]
    return [*lines, "", *notes] if notes else lines


def annotation_lines(step: StepView) -> list[str]:
    """Return ``error: build/test: a.py:3:7: message`` for each annotation of a step."""
    lines: list[str] = []
    for note in step.annotations:
        place = ":".join(str(note[key]) for key in ("file", "line", "column") if key in note)
        parts = [str(note.get("level", "notice")), step.path, place, str(note.get("title", ""))]
        message = one_line(str(note.get("message", "")), 500)
        lines.append(plain(": ".join([part for part in parts if part] + [message])))
    return lines


def _headless(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return rows[0], rows[1:]


def _value(value: Any) -> str:
    if value is None or value == {}:
        return ""
    import msgspec

    return one_line(msgspec.json.encode(value).decode(), 500)
