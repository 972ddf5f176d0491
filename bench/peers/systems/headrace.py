"""Ours: nats-server, one coordinator, one worker, as `flowctl dev` runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.peers import install
from bench.peers.processes import Process, free_port
from bench.peers.systems.system import Load, System, distributions

SLOTS = 256


class Headrace(System):
    """Level `journal`, fsync before every acknowledgement; archive, history and feed are on."""

    name = "headrace"
    title = "Headrace"
    notes = (
        "Every step's schedule and result are events in a log that is fsynced before anything "
        "that depends on them leaves the coordinator.",
        "Broker, coordinator, worker and client are processes of their own; archive, history and "
        "event feed are on.",
        "The client sends submits and waits in arrays, as `submit_many` does.",
    )
    load = Load(
        w1_runs=400,
        w2_runs=200,
        w2_times=20,
        w3_times=8,
        w4_runs=10_000,
        w5_streams=4,
        w5_batch=10,
    )
    client_script = "headrace_client.py"

    @classmethod
    def install(cls) -> None:
        cls.python = install.own_environment()

    @classmethod
    def versions(cls) -> dict[str, str]:
        server = subprocess.run(
            [cls.python.with_name("nats-server"), "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        found = distributions(cls.python, "headrace", "nats-py", "msgspec", "uvloop")
        return found | {"nats-server": server.stdout.split()[-1]}

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "durability": "journal",
            "nats-server": "one, sync_interval: always, replicas 1",
            "coordinator": "one process, one shard, archive sqlite",
            "worker": f"one process, {SLOTS} slots",
        }

    def start_servers(self) -> None:
        self._port, monitor = free_port(), free_port()
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self._port}"\nhttp: "127.0.0.1:{monitor}"\n'
            f'jetstream {{\n  store_dir: "{self.folder / "nats"}"\n  sync_interval: always\n}}\n'
        )
        broker = Process(
            "nats-server",
            [self.python.with_name("nats-server"), "--config", config],
            self.folder,
        )
        self.servers.append(broker)
        broker.start()
        broker.until_listening(self._port)
        arguments = ["--id", "coordinator", "--data-dir", str(self.folder / "coordinator")]
        arguments += ["--monitor", f"http://127.0.0.1:{monitor}"]
        arguments += ["--archive", "sqlite", "--shards", "1"]
        self.servers.append(self._role("coordinator", *arguments))
        self.servers[-1].start()

    def start_worker(self) -> None:
        if self.worker is None:
            arguments = ["--id", "worker", "--data-dir", str(self.folder / "worker")]
            arguments += ["--slots", str(SLOTS), "-c", "default", "--app", "headrace_steps:app"]
            self.worker = self._role("worker", *arguments)
        self.worker.start()

    def environment(self) -> dict[str, str]:
        return {"BENCH_SERVER": f"nats://127.0.0.1:{self._port}"}

    def _role(self, role: str, *arguments: str) -> Process:
        server = f"nats://127.0.0.1:{self._port}"
        command: list[str | Path] = [
            self.python,
            "-m",
            "headrace.local.child",
            role,
            "--server",
            server,
            *arguments,
        ]
        return Process(role, command, self.folder, environment=self.app_environment())
