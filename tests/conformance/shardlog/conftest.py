"""Fixtures of the suites here."""

from support.broker import broker, broker_cluster, shared_broker
from support.shardlogs import wire_world, world

__all__ = ["broker", "broker_cluster", "shared_broker", "wire_world", "world"]
