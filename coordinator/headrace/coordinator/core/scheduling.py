"""From ready steps to tasks: fencing tokens, inputs and environment."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core.contexts import Contexts, functions, secret_levels, task_env
from headrace.coordinator.core.deferral import (
    CONDITION,
    SECRETS,
    STATUS,
    defer,
    is_the_workers,
    plain,
    resolve_for_worker,
)
from headrace.coordinator.core.nodes import fail_node, is_open, lane_of, lock_around, timeout_ms
from headrace.coordinator.core.outcomes import outputs
from headrace.coordinator.core.program import STATUS_FUNCTIONS, TASK
from headrace.coordinator.core.ready import PREFERRED, Lane
from headrace.coordinator.core.settling import settle
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.turns import turn_of
from headrace.errors import HeadraceError
from headrace.events import StepScheduled
from headrace.expressions import ExpressionError, Opaque, resolve, to_string
from headrace.messages import Task as WireTask
from headrace.messages import TaskOptions, subjects
from headrace.plan import Task, is_expression

_encode = msgspec.msgpack.Encoder().encode


def schedule(tick: Tick, lane_name: str, credit: int, wire_lane: str) -> list[WireTask]:
    """Take at most *credit* ready steps of a lane, log them as scheduled, return their tasks."""
    lane, now_ms = tick.ready.lanes.get(lane_name), tick.state.now_ms
    tasks: list[WireTask] = []
    if lane is None:
        return tasks
    while len(tasks) < credit:
        entry = lane.pop() if lane.length or lane.fair else None
        if entry is None:
            tick.ready.filled.pop(lane_name, None)
            break
        run, queued, _ = entry
        step = queued if run.patches is None else _after_patches(run, queued)
        if step < 0 or not run.is_ready(step, now_ms):
            continue
        program = run.program
        index = step if step < program.size else run.locate(step)[0]
        if (run.jobs or program.gates or run.patches is not None) and not _may_go(
            tick, run, step, lane
        ):
            continue
        if run.attempt[step] >= tick.limits.attempts:
            fail_node(tick, run, step, "attempts", "the limit of attempts is reached")
            settle(tick)
            continue
        node: Any = program.nodes[index]
        content = program.plain[index] or _content_of(tick, run, step, index, lane)
        if content is None:
            continue
        options = content.options
        if run.rounds or run.gates or run.labels:
            options = _of_this_attempt(run, step, options, now_ms)
        attempt, token = run.attempt[step] + 1, tick.state.token_last + 1
        tick.emit(run, StepScheduled(step, attempt, token, wire_lane))
        if lane.fair:
            lane.charge(run, run.priority + node.priority)
        # After the event: this attempt goes by the number that the newest plan gives it.
        wire = step if run.patches is None else run.wire(step)
        path = program.path[step] if step < program.size else run.path(step)
        tasks.append(
            WireTask(run.key, wire, path, attempt, token, node.uses, content.inputs, options)
        )
    if tick.state.outbox_news:
        # What has begun is counted by its rate limit from now on.
        settle(tick)
    return tasks


def _may_go(tick: Tick, run: Run, step: int, lane: Lane) -> bool:
    """What the step needs beside a worker may have been lost since it was queued."""
    fits = is_open(run, step, tick.state.now_ms)
    moved = run.jobs or run.patches is not None
    return fits and (not moved or _lane_still_fits(tick, run, step, lane))


def _after_patches(run: Run, wire: int) -> int:
    """Return the step that was queued; -1: a patch has made something else of it."""
    step = run.instance(wire)
    return step if step >= 0 and run.program.kind[run.locate(step)[0]] == TASK else -1


def _is_preferred(lane: Lane, right: Lane | None) -> bool:
    """Tell whether *lane* is of a worker that a sticky step may have, as it may have any."""
    return right is not None and PREFERRED in lane.name and right.name[:1] != "@"


def _lane_still_fits(tick: Tick, run: Run, step: int, lane: Lane) -> bool:
    """A job's worker may have been decided (or lost), or a patch come, since it was queued."""
    right = lane_of(tick, run, step, run.locate(step)[0])
    if right is lane or _is_preferred(lane, right):
        return True
    if right is not None:
        own = run.program.nodes[run.locate(step)[0]]
        assert isinstance(own, Task)
        right.push(run, run.wire(step), tick.state.now_ms, run.priority + own.priority)
        tick.ready.filled[right.name] = None
    return False


class _Content(NamedTuple):
    """What a task message says beside whose it is."""

    inputs: msgspec.Raw
    options: TaskOptions | None


def _content_of(tick: Tick, run: Run, step: int, index: int, lane: Lane) -> _Content | None:
    """Return the content of a task, the node at *index*; None: it has none, and was failed."""
    node: Any = run.program.nodes[index]
    try:
        content = _content(tick, run, step, index, node)
        if run.journal is None:
            return content
        # Who had the last turn knows what the others must be told.
        return _Content(turn_of(tick, run, sticky=PREFERRED in lane.name), content.options)
    except HeadraceError as error:
        fail_node(tick, run, step, "expression", str(error))
        settle(tick)
    except Exception as error:
        tick.quarantine(run, error)
    return None


def _content(tick: Tick, run: Run, step: int, index: int, node: Task) -> _Content:
    program = run.program
    raw, options = program.raw_inputs[index], program.options[index]
    if raw is not None and options is not None:
        if options.at_most_once:
            return _Content(raw, _with_start_by(tick, options))
        return _Content(raw, options)
    contexts = Contexts(run, step)
    status_functions = functions(run, step)
    deferred: dict[str, Any] = {}
    _ask_condition(run, step, contexts, deferred)
    if raw is None:
        value = resolve_for_worker(node.inputs, contexts, status_functions, deferred, ("inputs",))
        if program.fed[index]:
            value["input_data"] = input_data(run, step)
        raw = msgspec.Raw(_encode(value))
    if options is None:
        env = task_env(contexts, deferred)
        if deferred and contexts.call >= 0:
            deferred[SECRETS] = secret_levels(run, contexts.call)
        return _Content(raw, _options(tick, run, step, node, contexts, env, deferred))
    if deferred:
        options = msgspec.structs.replace(options, deferred=deferred)
    return _Content(raw, _with_start_by(tick, options) if options.at_most_once else options)


def _ask_condition(run: Run, step: int, contexts: Contexts, deferred: dict[str, Any]) -> None:
    """Let the worker evaluate a condition that only it can, before the first counted attempt."""
    condition = run.program.condition[run.locate(step)[0]]
    if condition is None or run.attempt[step] > run.uncounted.get(step, 0):
        return
    if is_the_workers(condition, contexts):
        defer((condition,), contexts, deferred)
        deferred[CONDITION] = condition.source
        available = functions(run, step)
        asked = condition.functions() & STATUS_FUNCTIONS
        deferred[STATUS] = {name: available[name]() for name in sorted(asked)}


def _with_start_by(tick: Tick, options: TaskOptions) -> TaskOptions:
    return msgspec.structs.replace(options, start_by_ms=tick.state.now_ms + START_BY_MS)


def _of_this_attempt(
    run: Run, step: int, options: TaskOptions | None, now_ms: int
) -> TaskOptions | None:
    """Tell a step its round and its lock's token; have it stopped before the lock expires."""
    if run.rounds and (again := run.round(step)):
        # What was undone is done again: not the same effect, so not the same key.
        options = msgspec.structs.replace(options or TaskOptions(), round=again)
    if run.labels and (trace := run.labels.get(subjects.TRACE_LABEL)):
        options = msgspec.structs.replace(options or TaskOptions(), traceparent=trace)
    gate = lock_around(run, step) if run.gates else None
    if gate is None:
        return options
    options = options or TaskOptions()
    env = {**options.env, LOCK_TOKEN: str(gate.token)}
    limit_ms = options.timeout_ms
    if gate.until_ms:
        left_ms = max(gate.until_ms - now_ms, 1)
        limit_ms = min(limit_ms, left_ms) if limit_ms else left_ms
    return msgspec.structs.replace(options, env=env, timeout_ms=limit_ms)


LOCK_TOKEN = "HEADRACE_LOCK_TOKEN"
"""In a step's environment: the fencing token of the lock that it holds."""
START_BY_MS = 60_000
"""An at-most-once attempt that has not started this long after its dispatch is handed back."""


def _options(
    tick: Tick,
    run: Run,
    step: int,
    node: Task,
    contexts: Contexts,
    env: dict[str, str],
    deferred: dict[str, Any],
) -> TaskOptions:
    job = run.job_of(step)
    workspace = ""
    if job >= 0 and job in run.jobs:
        restarts = run.jobs[job].restarts
        workspace = f"{run.key}/{run.path(job)}#{restarts}"
    limit_ms = _attempt_limit_ms(tick, run, step, node)
    added = run.jobs[job].path if job in run.jobs else []
    if added:
        env["HEADRACE_ADDED_PATH"] = ":".join(added)
    title = node.title
    if is_expression(title):
        with contextlib.suppress(ExpressionError):
            title = to_string(resolve(title, contexts, functions(run, step)))
    return TaskOptions(
        env=env,
        timeout_ms=limit_ms,
        heartbeat_timeout_ms=node.heartbeat_timeout_ms or 0,
        workspace=workspace,
        at_most_once=node.effect == "at-most-once",
        start_by_ms=tick.state.now_ms + START_BY_MS if node.effect == "at-most-once" else 0,
        deferred=deferred,
        title=title,
        workflow=run.workflow,
    )


def _attempt_limit_ms(tick: Tick, run: Run, step: int, node: Task) -> int:
    """Return the shorter of the attempt's own limit and what is left for all attempts."""
    limits = []
    if node.attempt_timeout_ms:
        limits.append(node.attempt_timeout_ms)
    whole = timeout_ms(run, step, node.timeout_ms)
    if whole:
        used = tick.state.now_ms - run.first_ms.get(step, tick.state.now_ms)
        limits.append(max(whole - used, 1))
    return min(limits, default=0)


def input_data(run: Run, step: int) -> Any:
    """Return what a `script` task of the `tasks:` dialect reads: the results of its needs.

    One need: its main value; several: a JSON object by name. Text stays text, the rest is JSON,
    written by the worker when a part of it lies in the object store.
    """
    index, shift, _ = run.locate(step)
    nodes = run.program.nodes
    values = {
        nodes[need].name: main_value(outputs(run, need + shift)) for need in nodes[index].needs
    }
    value: Any = next(iter(values.values())) if len(values) == 1 else values
    if isinstance(value, str) or any(map(_lies_elsewhere, (value, *values.values()))):
        return plain(value)
    return msgspec.json.encode(value).decode()


def _lies_elsewhere(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value, Opaque) or any(map(_lies_elsewhere, value.values()))
    return isinstance(value, list) and any(map(_lies_elsewhere, value))


def main_value(found: dict[str, Any]) -> Any:
    """Return the value that a task is about, of all its outputs."""
    for name in ("result", "json", "body", "stdout"):
        if found.get(name) not in (None, ""):
            return found[name]
    return found
