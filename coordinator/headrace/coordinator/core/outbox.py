"""The outbox: intents for other shards, logged with what caused them.

An intent has a deterministic id; the target logs what it did and drops doubles; the source
clears the intent when it is told "logged". A new owner sends again whatever is left.
"""

from __future__ import annotations

from headrace.coordinator.core import arrivals, children, keys, schedules
from headrace.coordinator.core.commands import Outgoing
from headrace.coordinator.core.intents import clear, is_held_back
from headrace.coordinator.core.state import OutMessage
from headrace.coordinator.core.tick import Tick


def target(tick: Tick, content: OutMessage) -> int:
    """Return the shard that an intent is for."""
    key = content.shard_key
    return int(key[1:]) if key.startswith("#") else tick.home(key)


def drain_local(tick: Tick) -> bool:
    """Deliver intents for this very shard at once, hand out the others; tell whether any was."""
    state = tick.state
    if not state.outbox_news and tick.posted:
        return False
    state.outbox_news = False
    local = False
    for message, content in list(state.outbox.items()):
        if message not in state.outbox or is_held_back(tick, content):
            continue
        shard = target(tick, content)
        if shard == state.shard:
            if deliver(tick, message, content):
                clear(tick, [message])
                local = True
            else:
                tick.posted.add(message)
        elif message not in tick.posted:
            tick.posted.add(message)
            tick.outgoing.append(Outgoing(message, shard, content))
    return local


def deliver(tick: Tick, message: str, content: OutMessage) -> bool:
    """Apply an intent in its target shard. Idempotent: what is done already changes nothing.

    False: there is no room for it now; it is to be sent again.
    """
    kind, args = content.kind, content.args
    if kind == "acquire":
        keys.acquire(tick, *args)
    elif kind == "release":
        keys.release(tick, *args)
    elif kind == "granted":
        keys.granted(tick, *args)
    elif kind == "audit":
        keys.audited(tick, *args)
    elif kind in ("preempt", "replaced"):
        keys.preempted(tick, *args, reason=kind)
    elif kind == "start-child":
        children.start(tick, *args)
    elif kind == "cancel-child":
        children.cancel(tick, *args)
    elif kind == "child-ended":
        children.ended(tick, *args)
    elif kind == "start":
        schedules.start(tick, *args)
    elif kind == "stop":
        schedules.stop(tick, *args)
    elif kind == "run-ended":
        schedules.run_ended(tick, *args)
    elif kind == "schedules":
        schedules.apply_definition(tick, *args)
    elif kind == "start-by-event":
        return arrivals.start(tick, *args)
    elif kind == "event-declined":
        arrivals.declined(tick, *args)
    else:
        raise AssertionError(f"outbox message {message}: {kind}")
    return True
