"""Restate: one server, a Python service behind Hypercorn."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

from bench.peers import install
from bench.peers.processes import Broken, Process, free_port
from bench.peers.systems.system import Load, System, distributions

REQUIREMENTS = (
    "restate-sdk[serde]>=1,<2",
    "hypercorn>=0.17,<1",
    "aiohttp>=3.11,<4",
    "uvloop>=0.21,<1",
)
SERVER = ("@restatedev/restate-server", "^1.4")
SERVICE_WORKERS = 2
HYPERCORN = f"""\
workers = {SERVICE_WORKERS}
worker_class = "uvloop"
h2_max_concurrent_streams = 2147483647
keep_alive_max_requests = 2147483647
keep_alive_timeout = 2147483647
"""


class Restate(System):
    """The server with all roles in one process and its default durability."""

    name = "restate"
    title = "Restate"
    notes = (
        "The server keeps its log in RocksDB with the write-ahead log fsynced, its default; it "
        "drives the code over a stream of HTTP/2, so a step's result is journaled before the next "
        "begins.",
        "Steps are closures in the service (`ctx.run`); they run where the handler runs, no step "
        "goes to another worker by itself. W3 is 1,000 of them at the same time, which "
        "costs half of what calls of 1,000 handlers do.",
        "The server may use up to 2 GB for RocksDB by default, and takes 24 partitions.",
    )
    load = Load(
        w1_runs=200, w2_runs=200, w2_times=4, w3_times=2, w4_runs=2_000, w5_streams=4, w5_batch=10
    )
    client_script = "restate_client.py"
    server: ClassVar[Path]

    @classmethod
    def install(cls) -> None:
        cls.python = install.environment("restate", REQUIREMENTS)
        folder = install.npm_package(*SERVER) / "node_modules" / "@restatedev"
        found = [*folder.glob("restate-server-*/bin/restate-server")]
        if not found:
            raise install.NotInstalled("npm brought no restate-server for this machine")
        cls.server = found[0]

    @classmethod
    def versions(cls) -> dict[str, str]:
        said = subprocess.run(
            [cls.server, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
        found = distributions(cls.python, "restate-sdk", "Hypercorn", "uvloop")
        return {"restate-server": said.stdout.split()[-1]} | found

    @classmethod
    def settings(cls) -> dict[str, str]:
        return {
            "server": "defaults (replicated log with one copy, fsync of its write-ahead log on), "
            "telemetry off",
            "service": f"Hypercorn, {SERVICE_WORKERS} workers, uvloop, settings for production",
            "client": "aiohttp, request and response, 256 at the same time in W4",
        }

    def start_servers(self) -> None:
        node, self._ingress, self._admin, self._service = (free_port() for _ in range(4))
        settings = {
            "RESTATE_BASE_DIR": str(self.folder / "restate"),
            "RESTATE_NODE_NAME": "bench",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self._ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{self._admin}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "RESTATE_LOG_FILTER": "warn",
        }
        server = Process(
            "restate-server", [self.server, "--no-logo"], self.folder, environment=settings
        )
        self.servers.append(server)
        server.start()
        server.until(lambda: self._answers("/health"), within_s=60.0)

    def start_worker(self) -> None:
        if self.worker is not None:
            self.worker.start()
            return
        config = self.folder / "hypercorn.toml"
        config.write_text(f'bind = "127.0.0.1:{self._service}"\n{HYPERCORN}', encoding="utf-8")
        command: list[str | Path] = [self.python, "-m", "hypercorn", "--config", config]
        command.append("restate_app:app")
        self.worker = Process("service", command, self.folder, environment=self.app_environment())
        self.worker.start()
        self.worker.until_listening(self._service)
        self._register()

    def environment(self) -> dict[str, str]:
        return {"BENCH_INGRESS": f"http://127.0.0.1:{self._ingress}"}

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}{path}", timeout=2):
                return True
        except OSError:
            return False

    def _register(self) -> None:
        """Tell the server where the service is."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._admin}/deployments",
            data=json.dumps({"uri": f"http://127.0.0.1:{self._service}"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30):
                pass
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            raise Broken(f"restate-server refuses the service: {said}") from error
        except OSError as error:
            raise Broken(f"restate-server does not take the service: {error}") from error
