"""Requests to the workflow function of an open run: updates, queries, and how it goes on."""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.asking import WAIT_MS_MAX
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.nodes import fail_step, push_ready
from headrace.coordinator.core.requests.mutation import Handler, live_run, mutate, over, seen
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.waking import update_key, update_view, wake
from headrace.events import EntryBegun, RunUnblocked
from headrace.messages import (
    Query,
    QueryRun,
    StepError,
    UnblockRun,
    UpdateRun,
)

ACTIONS: Final = ("skip", "patch", "fail")
NAME_MAX: Final = 128
UPDATES_MAX: Final = 1_000
"""Updates of one run that wait for their answer."""
_encode = msgspec.msgpack.Encoder().encode


def _function(tick: Tick, namespace: str, name: str) -> Run | Refusal:
    found = live_run(tick, namespace, name)
    if isinstance(found, Run) and found.journal is None:
        return Refusal("invalid-request", f"run {name} is no workflow function")
    return found


def _update(tick: Tick, namespace: str, request: UpdateRun) -> Reply:
    found = _function(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found

    def apply(run: Run) -> Refusal | None:
        journal = run.journal
        assert journal is not None
        if not 0 < len(request.name) <= NAME_MAX:
            return over("update's name", len(request.name), NAME_MAX, "characters")
        argument = _encode(request.argument)
        if len(argument) > tick.limits.input_bytes:
            return over("argument", len(argument), tick.limits.input_bytes)
        waiting = sum(
            journal.is_open(key) for key, e in journal.entries.items() if e.kind == "update"
        )
        if waiting >= UPDATES_MAX:
            return over("run", waiting, UPDATES_MAX, "updates that wait for an answer")
        tick.emit(
            run,
            EntryBegun(
                update_key(request.request_id),
                "update",
                request.name,
                details=msgspec.Raw(argument),
                request_id=request.request_id,
                not_after_ms=request.not_after_ms,
                actor=request.actor,
            ),
        )
        wake(tick, run)
        return None

    reply = mutate(tick, namespace, request, apply, verb="updated")
    if isinstance(reply, Refusal):
        return reply
    return _outcome(tick, found, request)


def _outcome(tick: Tick, run: Run, request: UpdateRun) -> Reply:
    """Return what became of an update; that, when it is known, if the client waits for it."""
    journal = run.journal
    assert journal is not None
    key = update_key(request.request_id)
    entry = journal.entries.get(key)
    if entry is None:
        return Refusal("not-found", "the run has continued as new since; the answer is gone")
    if journal.is_open(key) and status.is_final(run.state):
        return Refusal("conflict", f"run {request.run} has ended without an answer")
    if not journal.is_open(key) or request.wait_ms <= 0:
        return update_view(entry)
    until_ms = tick.state.now_ms + min(request.wait_ms, WAIT_MS_MAX)
    return tick.questions.await_update(run, key, until_ms)


def _query(tick: Tick, namespace: str, request: QueryRun) -> Reply:
    run = _function(tick, namespace, request.run)
    if isinstance(run, Refusal):
        return run
    journal, step = run.journal, run.program.code
    assert journal is not None
    if status.is_final(run.state) or run.quarantined or (run.cancelling and journal.killed):
        return Refusal("conflict", f"run {request.run} answers nothing any more")
    if journal.blocked is not None or run.paused:
        why = "blocked" if journal.blocked is not None else "paused"
        return Refusal("conflict", f"run {request.run} is {why}: its function cannot be asked now")
    if not 0 < len(request.name) <= NAME_MAX or not 0 < len(request.id) <= NAME_MAX:
        return Refusal("invalid-request", f"a name and an id have 1 to {NAME_MAX} characters")
    argument = _encode(request.argument)
    if len(argument) > tick.limits.input_bytes:
        return over("argument", len(argument), tick.limits.input_bytes)
    until_ms = tick.state.now_ms + max(min(request.wait_ms, WAIT_MS_MAX), 1)
    query = Query(request.id, request.name, msgspec.Raw(argument))
    question = tick.questions.ask(run, query, until_ms)
    if isinstance(question, Refusal):
        return question
    if run.status[step] == status.WAITING:
        if not journal.asked:
            journal.asked = True
            push_ready(tick, run, step, step)
    else:
        wake(tick, run)
    return question


def _unblock(tick: Tick, namespace: str, request: UnblockRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        journal, step = run.journal, run.program.code
        if journal is None or journal.blocked is None:
            return Refusal("conflict", f"run {request.run} is not blocked by its code")
        if request.action not in ACTIONS:
            return Refusal("invalid-request", f"an action is one of {', '.join(ACTIONS)}")
        key, kind, message = journal.blocked
        key = request.key or key
        if request.action == "skip" and key not in journal.entries:
            return Refusal("conflict", f"nothing is recorded under {key!r:.200}")
        if request.action == "skip" and key in journal.skip:
            seen(tick, request)
            return None
        stamp = (request.request_id, request.not_after_ms, request.actor)
        tick.emit(run, RunUnblocked(request.action, key, *stamp))
        if request.action == "fail":
            error = StepError(kind, message, False)
            fail_step(tick, run, step, run.attempt[step], error)
        return None

    return mutate(tick, namespace, request, apply, verb="unblocked")


HANDLERS: Final[dict[type, Handler]] = {
    UpdateRun: _update,
    QueryRun: _query,
    UnblockRun: _unblock,
}
