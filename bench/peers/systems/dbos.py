"""DBOS on PostgreSQL 15."""

from __future__ import annotations

import signal

from bench.peers import install
from bench.peers.processes import Process
from bench.peers.systems.postgres import Postgres, server_version
from bench.peers.systems.system import APPS, Load, System, distributions

REQUIREMENTS = ("dbos>=3,<4", "uvloop>=0.21,<1")


class Dbos(System):
    """A library: W1 to W4 run in the client's process; W5 in a worker's, behind a queue."""

    name = "dbos"
    title = "DBOS + PostgreSQL"
    notes = (
        "Each step's result is a row, committed with fsync before the next step begins.",
        "W1 to W4 run in the process that calls them, so nothing is dispatched to a worker: the "
        "fastest way that DBOS has. W3 is 1,000 steps gathered within one workflow.",
        "W5 goes over a queue to a worker, polled each 100 ms (1 s by default); the restarted "
        "worker has the same executor id and so takes up what it had not finished.",
    )
    load = Load(
        w1_runs=150, w2_runs=200, w2_times=1, w3_times=1, w4_runs=1_000, w5_streams=4, w5_batch=10
    )
    client_script = "dbos_client.py"

    @classmethod
    def install(cls) -> None:
        cls.python = install.environment("dbos", REQUIREMENTS)
        install.postgres()

    @classmethod
    def versions(cls) -> dict[str, str]:
        found = distributions(cls.python, "dbos", "SQLAlchemy", "psycopg", "uvloop")
        return found | {"postgresql": server_version()}

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "postgresql": "fsync on, synchronous_commit on, max_connections 200, else defaults",
            "dbos": "pool of 20 connections, async workflows and steps",
        }

    def start_servers(self) -> None:
        self._postgres = Postgres(self.folder)
        self.servers.append(self._postgres)
        self._postgres.start()

    def start_worker(self) -> None:
        """Before W5 there is none: the client's process runs the workflows."""
        if self.worker is not None:
            self.worker.start()

    def before_loss(self) -> None:
        assert self.client is not None
        self.client.stop(signal.SIGKILL)
        command = [self.python, APPS / "dbos_app.py"]
        self.worker = Process("worker", command, self.folder, environment=self.app_environment())
        self.worker.start()
        self.start_client("dbos_queue_client.py")

    def environment(self) -> dict[str, str]:
        return {"BENCH_POSTGRES": self._postgres.url()}
