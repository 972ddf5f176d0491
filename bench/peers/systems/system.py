"""What is common to all systems: an own environment, servers, a worker, a client."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.peers.install import ROOT, clean_environment
from bench.peers.processes import Client, Process

APPS = Path(__file__).resolve().parents[1] / "apps"
STEP_LOG = "steps.log"
READY_S = 60.0


@dataclass(frozen=True)
class Load:
    """How much of each workload a system gets in one round; less where it is slow."""

    w1_runs: int
    w2_runs: int
    w2_times: int
    w3_times: int
    w4_runs: int
    w5_streams: int
    w5_batch: int
    w3_width: int = 1_000
    w5_grace_s: float = 20.0

    def quick(self) -> Load:
        """Return the load of a quick round."""
        return Load(
            w1_runs=max(self.w1_runs // 2, 5),
            w2_runs=self.w2_runs,
            w2_times=max(self.w2_times // 3, 1),
            w3_times=max(self.w3_times // 3, 1),
            w3_width=self.w3_width,
            w4_runs=self.w4_runs if self.w4_runs > 5_000 else max(self.w4_runs // 2, 20),
            w5_streams=self.w5_streams,
            w5_batch=self.w5_batch,
            w5_grace_s=self.w5_grace_s,
        )


class System:
    """One system in one folder. `install` once, then `start` … `stop` for each round."""

    name: ClassVar[str]
    title: ClassVar[str]
    durable: ClassVar[bool] = True
    """A step's result is on disk before the next step begins."""
    notes: ClassVar[tuple[str, ...]]
    """What a reader must know to compare; one sentence each."""
    load: ClassVar[Load]
    client_script: ClassVar[str]
    python: ClassVar[Path]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Process] = []
        self.worker: Process | None = None
        self.client: Client | None = None

    @classmethod
    def install(cls) -> None:
        """Install what is missing. Raises `NotInstalled`."""
        raise NotImplementedError

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Return name -> version of what is measured."""
        raise NotImplementedError

    @classmethod
    def settings(cls) -> dict[str, str]:
        """Return the settings that matter, as they are given."""
        raise NotImplementedError

    def start_servers(self) -> None:
        """Start what the worker and the client connect to; returns when it is ready."""
        raise NotImplementedError

    def start_worker(self) -> None:
        """Start the worker; also again after it was killed. Need not wait until it is ready."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return what worker and client are told by the environment."""
        return {}

    def start(self) -> None:
        """Start everything. Raises `Broken`."""
        self.folder.mkdir(parents=True)
        # A server that may not run as root has its data below.
        self.folder.chmod(0o711)
        self.start_servers()
        self.start_worker()
        self.start_client(self.client_script)

    def start_client(self, script: str) -> None:
        """Start the client and wait until it is connected."""
        self.client = Client(
            [self.python, APPS / script], self.folder, environment=self.app_environment()
        )
        self.client.start()
        self.client.answer(within_s=READY_S)

    def app_environment(self) -> dict[str, str]:
        """Return the environment of a process that runs a script of `apps/`."""
        log = str(self.folder / STEP_LOG)
        paths = {"PYTHONPATH": f"{APPS}:{ROOT}", "BENCH_STEP_LOG": log}
        return self.environment() | paths | {"PYTHONDONTWRITEBYTECODE": "1"}

    def before_loss(self) -> None:
        """Arrange things for W5, where that differs from the other workloads."""

    def processes(self) -> list[Process]:
        """Return all that runs: servers, worker, client."""
        return [*self.servers, *(p for p in (self.worker, self.client) if p is not None)]

    def stop(self) -> None:
        """End every process that was started here."""
        for process in reversed(self.processes()):
            process.stop()

    def tails(self) -> str:
        """Return the ends of the logs, for an error."""
        return "\n".join(f"--- {p.name}\n{p.tail()}" for p in self.processes())


def distributions(python: Path, *names: str) -> dict[str, str]:
    """Return name -> version of distributions in an environment."""
    code = (
        "import sys; from importlib.metadata import version\n"
        "print('\\n'.join(f'{n} {version(n)}' for n in sys.argv[1:]))"
    )
    done = subprocess.run(
        [python, "-c", code, *names],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment(),
        check=True,
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def shown(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as text."""
    return {key: str(value) for key, value in settings.items()}
