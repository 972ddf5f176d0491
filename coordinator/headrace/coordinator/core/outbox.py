"""The outbox: intents for other shards, logged with what caused them.

An intent has a deterministic id; the target logs what it did and drops doubles; the source
clears the intent when it is told "logged". A new owner sends again whatever is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.coordinator.core import keys
from headrace.coordinator.core.commands import Outgoing
from headrace.coordinator.core.state import OutMessage

if TYPE_CHECKING:
    from headrace.coordinator.core.machine import Machine


def target(machine: Machine, content: OutMessage) -> int:
    """Return the shard that an intent is for."""
    key = content.shard_key
    return int(key[1:]) if key.startswith("#") else machine.home(key)


def drain_local(machine: Machine) -> bool:
    """Deliver intents for this very shard at once, hand out the others; tell whether any was."""
    state = machine.state
    if not state.outbox_news and machine.posted:
        return False
    state.outbox_news = False
    local = False
    for message, content in list(state.outbox.items()):
        if message not in state.outbox:
            continue
        shard = target(machine, content)
        if shard == state.shard:
            deliver(machine, message, content)
            machine.clear_outbox([message])
            local = True
        elif message not in machine.posted:
            machine.posted.add(message)
            machine.outgoing.append(Outgoing(message, shard, content))
    return local


def deliver(machine: Machine, message: str, content: OutMessage) -> None:
    """Apply an intent in its target shard. Idempotent: what is done already changes nothing."""
    kind, args = content.kind, content.args
    if kind == "acquire":
        keys.acquire(machine, *args)
    elif kind == "release":
        keys.release(machine, *args)
    elif kind == "granted":
        keys.granted(machine, *args)
    elif kind in ("preempt", "replaced"):
        keys.preempted(machine, *args, reason=kind)
    else:
        raise AssertionError(f"outbox message {message}: {kind}")
