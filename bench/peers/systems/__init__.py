"""The systems that are measured, each a module: what it needs, how it is started and stopped."""

from bench.peers.systems.celery import Celery
from bench.peers.systems.dbos import Dbos
from bench.peers.systems.headrace import Headrace
from bench.peers.systems.prefect import Prefect
from bench.peers.systems.restate import Restate
from bench.peers.systems.system import Load, System

SYSTEMS: tuple[type[System], ...] = (Headrace, Restate, Dbos, Celery, Prefect)

__all__ = ["SYSTEMS", "Load", "System"]
