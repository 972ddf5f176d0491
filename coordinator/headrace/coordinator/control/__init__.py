"""The control plane: who is there, who decides, which coordinator owns which shard.

Everything here can be learned again from heartbeats and is on no disk. Nothing durable belongs
here, and no promise to a user rests on it: shard logs are fenced by themselves.
"""

from headrace.coordinator.control.controller import Policy
from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat, decode_heartbeat
from headrace.coordinator.control.machine import Command, DrainCoordinator
from headrace.coordinator.control.member import Cadence, OnAssignments
from headrace.coordinator.control.node import ControlOptions, ControlPlane, ControlStatus
from headrace.coordinator.control.placement import PlacementPolicy
from headrace.coordinator.control.ports import Clock, ControlBus
from headrace.coordinator.control.registry import RegistryPolicy
from headrace.coordinator.control.view import (
    Assignment,
    ControlState,
    CoordinatorRecord,
    WorkerRecord,
    state_hash,
)

__all__ = [
    "Assignment",
    "Cadence",
    "Clock",
    "Command",
    "ControlBus",
    "ControlOptions",
    "ControlPlane",
    "ControlState",
    "ControlStatus",
    "CoordinatorHeartbeat",
    "CoordinatorRecord",
    "DrainCoordinator",
    "OnAssignments",
    "PlacementPolicy",
    "Policy",
    "RegistryPolicy",
    "WorkerRecord",
    "decode_heartbeat",
    "state_hash",
]
