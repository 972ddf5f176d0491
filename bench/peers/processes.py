"""Processes of a system: started in a session of their own, counted with their children, ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.install import clean_environment

TICKS = os.sysconf("SC_CLK_TCK")
STOP_S = 8.0
POLL_S = 0.02


class Broken(Exception):
    """A system did not start, answered with an error, or did not answer in time."""


def free_port() -> int:
    """Return a loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One process with all that it starts; its output goes to a file in *folder*."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        pipes: bool = False,
    ) -> None:
        self.name, self.folder = name, folder
        self._arguments = [str(argument) for argument in arguments]
        self._environment = clean_environment(**(environment or {}))
        self._user, self._pipes = user, pipes
        self.popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where it writes."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Start it; again after `kill`, with the same arguments."""
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE if self._pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._pipes else out,
                stderr=out,
                cwd=self.folder,
                env=self._environment,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def kill(self) -> None:
        """kill -9 of it and of all that it started; returns once it is dead."""
        if self.popen is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, then kill what is left of its session."""
        if self.popen is None:
            return
        if self.running:
            self.popen.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_S)
        self.kill()

    def tail(self) -> str:
        """Return the end of what it wrote."""
        try:
            return self.log.read_text(errors="replace")[-1500:]
        except OSError:
            return ""

    def until(self, ready: Callable[[], bool], *, within_s: float) -> None:
        """Return once *ready*; raises `Broken` when the process ends or it takes too long."""
        deadline = time.monotonic() + within_s
        while not ready():
            if not self.running:
                raise Broken(f"{self.name} ended while starting:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Broken(f"{self.name} is not ready after {within_s:.0f} s:\n{self.tail()}")
            time.sleep(POLL_S)

    def until_listening(self, port: int, *, within_s: float = 30.0) -> None:
        """Return once something accepts connections at *port*."""

        def open_now() -> bool:
            with socket.socket() as probe:
                probe.settimeout(0.5)
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.until(open_now, within_s=within_s)

    def until_said(self, text: str, *, within_s: float = 30.0) -> None:
        """Return once its log has *text*, behind what was there when this was called."""
        begin = len(self.log.read_bytes()) if self.log.exists() else 0

        def said() -> bool:
            return text.encode() in self.log.read_bytes()[max(begin - 4096, 0) :]

        self.until(said, within_s=within_s)


class Client(Process):
    """A process of `apps/`: takes commands as lines of JSON, answers each with one line."""

    def __init__(
        self, arguments: Sequence[str | Path], folder: Path, *, environment: Mapping[str, str]
    ) -> None:
        super().__init__("client", arguments, folder, environment=environment, pipes=True)
        self._rest = b""

    def send(self, do: str, **parameters: Any) -> None:
        """Send a command; `answer` takes what comes of it."""
        assert self.popen is not None
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps({"do": do, **parameters}).encode() + b"\n")
            self.popen.stdin.flush()
        except OSError as error:
            raise Broken(f"the client has ended:\n{self.tail()}") from error

    def answer(self, *, within_s: float) -> dict[str, Any]:
        """Return the answer to the last command; raises `Broken`."""
        assert self.popen is not None
        assert self.popen.stdout is not None
        deadline = time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise Broken(f"no answer within {within_s:.0f} s:\n{self.tail()}")
                data = os.read(self.popen.stdout.fileno(), 1 << 16)
                if not data:
                    raise Broken(f"the client has ended:\n{self.tail()}")
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Broken(f"{answer['error']}\n{self.tail()}")
        return answer

    def ask(self, do: str, *, within_s: float, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self.send(do, **parameters)
        return self.answer(within_s=within_s)


def members(roots: Iterable[Process]) -> list[int]:
    """Return the ids of living processes: *roots*, their sessions, and all descendants."""
    known = {root.pid for root in roots if root.popen is not None}
    parents: dict[int, tuple[int, int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = _stat(int(entry))
                parents[int(entry)] = int(fields[1]), int(fields[3])
    grown = True
    while grown:
        more = {
            pid
            for pid, (parent, session) in parents.items()
            if pid not in known and (parent in known or session in known)
        }
        known |= more
        grown = bool(more)
    return [pid for pid in known if pid in parents]


def cpu_seconds(roots: Iterable[Process]) -> float:
    """Return user and system seconds of *roots* and all they started, ended children too."""
    ticks = 0
    for pid in members(roots):
        with contextlib.suppress(OSError):
            ticks += sum(int(field) for field in _stat(pid)[11:15])
    return ticks / TICKS


def pss_mb(roots: Iterable[Process]) -> float:
    """Return the proportional set size: memory, with shared pages divided among their users."""
    total = 0
    for pid in members(roots):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
