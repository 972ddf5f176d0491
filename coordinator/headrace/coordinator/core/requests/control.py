"""Requests about an open run: signal, cancel, pause, resume, resolve."""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.coordinator.core.cancellation import cancel_run
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.nodes import (
    CORRELATION_KEY_MAX,
    RESOLUTIONS,
    deliver_signals,
    resolve,
    signal_address,
)
from headrace.coordinator.core.requests.mutation import Handler, mutate, over, seen
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.takeover import rebuild
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.waking import lets_go
from headrace.events import RunPaused, RunResumed, SignalReceived, StepResolved
from headrace.messages import CancelRun, PauseRun, ResolveStep, ResumeRun, SignalRun

_encode = msgspec.msgpack.Encoder().encode


def _signal(tick: Tick, namespace: str, request: SignalRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if len(run.signals) >= tick.limits.signals:
            return Refusal("limit-exceeded", f"{len(run.signals)} signals wait to be taken")
        if len(request.correlation_key) > CORRELATION_KEY_MAX:
            length = len(request.correlation_key)
            return over("correlation key", length, CORRELATION_KEY_MAX, "characters")
        payload = _encode(request.payload)
        if len(payload) > tick.limits.input_bytes:
            return Refusal(
                "limit-exceeded",
                f"the payload has {len(payload)} bytes; the limit is {tick.limits.input_bytes}",
            )
        tick.emit(
            run,
            SignalReceived(
                signal_address(request.name, request.correlation_key),
                msgspec.Raw(payload),
                request.request_id,
                request.not_after_ms,
                request.actor,
            ),
        )
        deliver_signals(tick, run)
        return None

    return mutate(tick, namespace, request, apply, verb="signalled")


def _cancel(tick: Tick, namespace: str, request: CancelRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        undoing = any(not saga.stopped for saga in run.sagas.values())
        stopped = run.doomed.issuperset(run.tokens) and not lets_go(run)
        if run.cancelling and not undoing and stopped:
            seen(tick, request)
            return None
        reason = request.reason or "cancelled by request"
        if request.actor:
            reason = f"{reason} ({request.actor})"
        cancel_run(tick, run, reason, request, force=request.force)
        return None

    return mutate(tick, namespace, request, apply, verb="cancelled")


def _pause(tick: Tick, namespace: str, request: PauseRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if run.paused:
            seen(tick, request)
        else:
            tick.emit(
                run,
                RunPaused(request.request_id, request.not_after_ms, request.reason, request.actor),
            )
        return None

    return mutate(tick, namespace, request, apply, verb="paused")


def _resume(tick: Tick, namespace: str, request: ResumeRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if not run.paused:
            seen(tick, request)
        else:
            tick.emit(run, RunResumed(request.request_id, request.not_after_ms, request.actor))
            rebuild(tick, run)
        return None

    return mutate(tick, namespace, request, apply, verb="resumed")


def _resolve(tick: Tick, namespace: str, request: ResolveStep) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if request.resolution not in RESOLUTIONS:
            listed = ", ".join(RESOLUTIONS)
            return Refusal("invalid-request", f"a resolution is one of {listed}")
        open_steps = [step for step, handler in run.held.items() if handler < 0]
        step = next((at for at in open_steps if run.path(at) == request.step), -1)
        if step < 0:
            waiting = ", ".join(run.path(at) for at in sorted(open_steps)[:10]) or "none"
            return Refusal(
                "conflict",
                f"step {request.step} of run {request.run} waits for no decision; those that do: "
                f"{waiting}",
            )
        output = _encode(request.output)
        if len(output) > tick.limits.output_bytes:
            return over("output", len(output), tick.limits.output_bytes)
        event = StepResolved(
            step,
            request.resolution,
            msgspec.Raw(output),
            request_id=request.request_id,
            not_after_ms=request.not_after_ms,
            actor=request.actor,
        )
        resolve(tick, run, event)
        return None

    return mutate(tick, namespace, request, apply, verb="resolved")


HANDLERS: Final[dict[type, Handler]] = {
    SignalRun: _signal,
    CancelRun: _cancel,
    PauseRun: _pause,
    ResumeRun: _resume,
    ResolveStep: _resolve,
}
