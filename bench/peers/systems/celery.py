"""Celery 5 on Redis with an append-only file."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import ClassVar

from bench.peers import install
from bench.peers.processes import Process, free_port
from bench.peers.systems.system import Load, System, distributions

VISIBILITY_S, W5_VISIBILITY_S = 3_600, 10
REQUIREMENTS = ("celery[redis]>=5.5,<6", "hiredis>=3,<4")


class Celery(System):
    """A pre-forking worker with two processes, late acknowledgements, prefetch for short tasks."""

    name = "celery"
    title = "Celery + Redis"
    durable = False
    notes = (
        "Redis' append-only file is fsynced once a second: up to a second of acknowledged work is "
        "lost with the machine.",
        "There is no run and no history: a chain is a message that carries the rest of itself, and "
        "a result is a key that expires.",
        "With Redis as broker, what a killed worker held comes back after `visibility_timeout`: "
        "10 s in W5, looked for each second; by default an hour, looked for every 100 s.",
    )
    load = Load(
        w1_runs=200, w2_runs=200, w2_times=2, w3_times=2, w4_runs=2_000, w5_streams=4, w5_batch=10,
        w5_grace_s=30.0,
    )  # fmt: skip
    client_script = "celery_client.py"
    redis: ClassVar[Path]
    libraries: ClassVar[Path]

    @classmethod
    def install(cls) -> None:
        cls.python = install.environment("celery", REQUIREMENTS)
        cls.redis, cls.libraries = install.redis()

    @classmethod
    def versions(cls) -> dict[str, str]:
        said = subprocess.run(
            [cls.redis, "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=install.clean_environment(LD_LIBRARY_PATH=str(cls.libraries)),
        )
        server = said.stdout.partition("v=")[2].split()[0]
        return distributions(cls.python, "celery", "kombu", "redis") | {"redis-server": server}

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "redis": "appendonly yes, appendfsync everysec, no RDB",
            "worker": "prefork, 2 processes, prefetch multiplier 64, -O fair, no gossip or mingle",
            "tasks": "acks_late, reject_on_worker_lost, visibility_timeout 1 h, in W5 10 s",
            "results": "Redis, kept",
        }

    def start_servers(self) -> None:
        self._visibility_s = VISIBILITY_S
        self._port = free_port()
        (self.folder / "redis").mkdir()
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"]
        server = Process(
            "redis-server",
            [self.redis, *options, "--dir", self.folder / "redis"],
            self.folder,
            environment={"LD_LIBRARY_PATH": str(self.libraries)},
        )
        self.servers.append(server)
        server.start()
        server.until_listening(self._port)

    def start_worker(self) -> None:
        if self.worker is None:
            options = ["worker", "--loglevel", "WARNING", "--pool", "prefork", "-O", "fair"]
            options += ["--without-gossip", "--without-mingle", "--hostname", "bench@localhost"]
            self.worker = Process(
                "worker",
                [self.python, "-m", "celery", "-A", "celery_app", *options],
                self.folder,
                environment=self.app_environment(),
            )
        self.worker.start()

    def before_loss(self) -> None:
        """Start a worker that soon takes up what another one held."""
        assert self.worker is not None
        self.worker.stop(signal.SIGQUIT)
        self.worker, self._visibility_s = None, W5_VISIBILITY_S
        self.start_worker()

    def environment(self) -> dict[str, str]:
        return {
            "BENCH_REDIS_PORT": str(self._port),
            "BENCH_VISIBILITY_S": str(self._visibility_s),
        }

    def stop(self) -> None:
        if self.worker is not None:
            # The cold shutdown: nothing is waited for.
            self.worker.stop(signal.SIGQUIT)
        super().stop()
