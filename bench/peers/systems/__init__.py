"""The systems that are measured, each a module: what it needs, how it is started and stopped."""

from bench.peers.systems.celery import Celery
from bench.peers.systems.headrace import Headrace
from bench.peers.systems.system import Load, System

SYSTEMS: tuple[type[System], ...] = (Headrace, Celery)

__all__ = ["SYSTEMS", "Load", "System"]
