"""All that follows from a tick's commands, until nothing more does."""

from __future__ import annotations

from headrace.coordinator.core.advance import advance
from headrace.coordinator.core.cancellation import fail_run
from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.outbox import drain_local
from headrace.coordinator.core.tick import Tick


def settle(tick: Tick) -> None:
    """Work off the agenda, runs that fail at once or are too long, and intents for this shard."""
    advance(tick)
    while tick.aborted:
        fail_run(tick, *tick.aborted.pop(0))
        advance(tick)
    while tick.overgrown:
        reason = f"limit-exceeded: over {tick.limits.events} events"
        fail_run(tick, tick.overgrown.pop(), reason)
        advance(tick)
    state = tick.state
    while state.outbox and drain_local(tick):
        advance(tick)
    if not state.outbox:
        state.outbox_news = False
    if tick.aborted:
        settle(tick)
    if tick.questions.open and tick.ended:
        for run in tick.ended:
            name = run.key.partition("/")[2]
            tick.questions.drop(run.key, Refusal("conflict", f"run {name} has ended"))
