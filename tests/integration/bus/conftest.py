"""Fixtures of the tests here."""

from support.broker import broker, broker_cluster, bus, shared_broker

__all__ = ["broker", "broker_cluster", "bus", "shared_broker"]
