"""The pure core: what a shard's state is, and how commands and time change it.

Rules of this package: no clock, no randomness, no logging, no await, no I/O. Time, ids and chance
come in with the commands; what is to be done comes out as values. Data flows one way: command →
events → state → effects. Only `evolve` and `shard_events` change state.
"""

from headrace.coordinator.core.arrivals import Taken, has_room
from headrace.coordinator.core.capture import Capture, verify
from headrace.coordinator.core.commands import Loss, Order, Outgoing, Refusal, TickEffects
from headrace.coordinator.core.explain import explain, summary
from headrace.coordinator.core.facts import Facts, Holder, WorkerFacts
from headrace.coordinator.core.fold import BrokenLog, Folder, apply_chunk, batch_hash
from headrace.coordinator.core.limits import Limits
from headrace.coordinator.core.loading import decode_state, loading
from headrace.coordinator.core.machine import Machine
from headrace.coordinator.core.parking import Parking
from headrace.coordinator.core.parking import Policy as ParkingPolicy
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.requests.submit import Fitting
from headrace.coordinator.core.snapshot import (
    BadSnapshot,
    decode_image,
    encode_hashed,
    encode_state,
    state_hash,
)
from headrace.coordinator.core.state import OutMessage, Run, ShardState
from headrace.coordinator.core.whole import Life, TaskLife

__all__ = [
    "BadSnapshot",
    "BrokenLog",
    "Capture",
    "Facts",
    "Fitting",
    "Folder",
    "Holder",
    "Life",
    "Limits",
    "Loss",
    "Machine",
    "Order",
    "OutMessage",
    "Outgoing",
    "Parking",
    "ParkingPolicy",
    "Program",
    "Refusal",
    "Run",
    "ShardState",
    "Taken",
    "TaskLife",
    "TickEffects",
    "WorkerFacts",
    "apply_chunk",
    "batch_hash",
    "decode_image",
    "decode_state",
    "encode_hashed",
    "encode_state",
    "explain",
    "has_room",
    "loading",
    "state_hash",
    "summary",
    "verify",
]
