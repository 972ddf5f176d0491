"""The worker's decisions without I/O: what to take, what is held, what is still to be answered.

No clock, no randomness, no asyncio, no logging: time comes in as an argument.
"""

from headrace.worker.core.assignments import Admission, Assignment, Assignments, Origin, Stop
from headrace.worker.core.credit import Credit
from headrace.worker.core.heartbeat import Identity, heartbeat, held_by_shard
from headrace.worker.core.outbox import Outbox, Route

__all__ = [
    "Admission",
    "Assignment",
    "Assignments",
    "Credit",
    "Identity",
    "Origin",
    "Outbox",
    "Route",
    "Stop",
    "heartbeat",
    "held_by_shard",
]
