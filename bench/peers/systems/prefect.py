"""Prefect 3: its server on PostgreSQL, flows called in a process of their own."""

from __future__ import annotations

import urllib.request

from bench.peers import install
from bench.peers.processes import Process, free_port
from bench.peers.systems.postgres import Postgres, server_version
from bench.peers.systems.system import APPS, Load, System, distributions

# Newer releases of FastAPI lack an argument that this server gives.
REQUIREMENTS = ("prefect>=3.4,<4", "fastapi<0.140", "uvloop>=0.21,<1")


class Prefect(System):
    """An orchestrator of batch jobs: seconds a step are usual, and it is here as such."""

    name = "prefect"
    title = "Prefect"
    durable = False
    notes = (
        "The states of flows are asked from the server; those of tasks are told to it as events, "
        "after the fact. A result is in the memory of the flow's process unless persisted.",
        "Flows are called in the client's process, the fastest way that Prefect has; a deployed "
        "flow starts a process for each run, which takes seconds.",
        "A flow whose process is killed is not taken up by anybody: it stays RUNNING until "
        "somebody, or an automation, runs it again from its beginning. In W5 the killed process "
        "makes the load itself.",
    )
    load = Load(
        w1_runs=10, w2_runs=20, w2_times=1, w3_times=1, w4_runs=40, w5_streams=1, w5_batch=8,
        w5_grace_s=15.0,
    )  # fmt: skip
    client_script = "prefect_client.py"

    @classmethod
    def install(cls) -> None:
        cls.python = install.environment("prefect", REQUIREMENTS)
        install.postgres()

    @classmethod
    def versions(cls) -> dict[str, str]:
        return distributions(cls.python, "prefect", "uvloop") | {"postgresql": server_version()}

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "server": "one process, on PostgreSQL (fsync on), analytics off",
            "flows": "async, no validation of parameters, no cache, logs not sent to the server",
        }

    def start_servers(self) -> None:
        self._postgres, self._port = Postgres(self.folder), free_port()
        self.servers.append(self._postgres)
        self._postgres.start()
        server = Process(
            "prefect-server",
            [self.python, "-m", "prefect", "server", "start", "--host", "127.0.0.1",
             "--port", str(self._port)],
            self.folder,
            environment=self.environment(),
        )  # fmt: skip
        self.servers.append(server)
        server.start()
        server.until(self._answers, within_s=120.0)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/health", timeout=2):
                return True
        except OSError:
            return False

    def start_worker(self) -> None:
        """Before W5 there is none: the client's process runs the flows."""
        if self.worker is not None:
            self.worker.start()

    def before_loss(self) -> None:
        command = [self.python, APPS / "prefect_app.py"]
        self.worker = Process("worker", command, self.folder, environment=self.app_environment())
        self.worker.start()

    def environment(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self._port}/api",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self._postgres.url("postgresql+asyncpg"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
            "BENCH_STOP_FILE": str(self.folder / "stop"),
            "BENCH_AT_ONCE": str(self.load.w5_streams * self.load.w5_batch),
        }
