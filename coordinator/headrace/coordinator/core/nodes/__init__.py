"""The kinds of nodes: each one's behaviour is one module, and `KINDS` is the table of all.

A new kind is a struct in `headrace.plan`, its number in `program`, a module here, and its line in
the table. Events that it adds are folded by `evolve`, as all are.
"""

from typing import Final

from headrace.coordinator.core import program
from headrace.coordinator.core.nodes.broadcast import gathered, lose_iterations
from headrace.coordinator.core.nodes.choice import ChoiceKind
from headrace.coordinator.core.nodes.consequences import (
    RESOLUTIONS,
    Consequence,
    abort,
    consequence,
    decide,
    resolve,
    unknown_consequence,
)
from headrace.coordinator.core.nodes.failing import fail_node, fail_step
from headrace.coordinator.core.nodes.fields import (
    cancel_due_ms,
    concurrency,
    is_tolerated,
    is_wanted,
    rule_holds,
    timeout_ms,
)
from headrace.coordinator.core.nodes.gates import (
    gate_reason,
    is_open,
    lock_around,
    rate_request,
    waits_behind,
)
from headrace.coordinator.core.nodes.group import GroupKind, key_granted, key_reason
from headrace.coordinator.core.nodes.kind import NodeKind, held_reason
from headrace.coordinator.core.nodes.loop import LoopKind
from headrace.coordinator.core.nodes.sagas import is_compensating
from headrace.coordinator.core.nodes.sleep import SleepKind
from headrace.coordinator.core.nodes.subworkflow import SubworkflowKind, child_id
from headrace.coordinator.core.nodes.task import TaskKind, lane_of, push_plain, push_ready, release
from headrace.coordinator.core.nodes.wait import (
    CORRELATION_KEY_MAX,
    WaitKind,
    deliver_signals,
    signal_address,
)

_TABLE: dict[int, NodeKind] = {
    program.TASK: TaskKind(),
    program.GROUP: GroupKind(),
    program.LOOP: LoopKind(),
    program.CHOICE: ChoiceKind(),
    program.WAIT: WaitKind(),
    program.SLEEP: SleepKind(),
    program.CHILD: SubworkflowKind(),
}
KINDS: Final = tuple(_TABLE[number] for number in range(len(_TABLE)))
"""By the number of the kind in `Program.kind`."""

__all__ = [
    "CORRELATION_KEY_MAX",
    "KINDS",
    "RESOLUTIONS",
    "Consequence",
    "NodeKind",
    "abort",
    "cancel_due_ms",
    "child_id",
    "concurrency",
    "consequence",
    "decide",
    "deliver_signals",
    "fail_node",
    "fail_step",
    "gate_reason",
    "gathered",
    "held_reason",
    "is_compensating",
    "is_open",
    "is_tolerated",
    "is_wanted",
    "key_granted",
    "key_reason",
    "lane_of",
    "lock_around",
    "lose_iterations",
    "push_plain",
    "push_ready",
    "rate_request",
    "release",
    "resolve",
    "rule_holds",
    "signal_address",
    "timeout_ms",
    "unknown_consequence",
    "waits_behind",
]
