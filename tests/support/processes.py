"""Processes of `flowctl` on loopback, to use and to harm; and what tests wait for.

Whatever was started is ended by its process id, the steps of killed workers too: every process
carries a mark in its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from headrace.bus import free_port
from support.patience import PATIENCE
from support.reaper import bearing

MARK = "CLUSTER_MARK"
LOG_TAIL_BYTES = 4_000
START_S = 30.0
STOP_S = 12.0
POLL_S = 0.02
TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "examples"
_FLOWCTL = "from headrace.flowctl import main; main()"


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout, which must be JSON and nothing else."""
        return json.loads(self.out)


class Program:
    """One `flowctl` process that stays: started, harmed, started again, its log kept."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        prefix: Sequence[str] = (),
        first: str = "",
    ) -> None:
        """*prefix*: what the command begins with, to run it elsewhere (`nsenter …`).

        *first*: a module that the process imports before anything else.
        """
        self.name, self.arguments = name, list(arguments)
        self._prefix = tuple(prefix)
        self._code = f"import {first}; {_FLOWCTL}" if first else _FLOWCTL
        self.log = folder / f"{name}.log"
        self._env = dict(env)
        self._cwd = folder
        self._process: subprocess.Popen[bytes] | None = None

    def set_env(self, more: Mapping[str, str]) -> None:
        """Change the environment of its next life."""
        self._env |= more

    def start(self) -> None:
        """Start; it must not run."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-c", self._code, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The newest life."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the newest life."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """The process lives (it may be frozen)."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        if self.running:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(5)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, nothing answers; it stands still on return."""
        self.send(signal.SIGSTOP)
        if self.running:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    async def ended(self, *, within_s: float = STOP_S) -> int:
        """Return the exit code once it has ended; fail when it does not in time."""
        await until(lambda: not self.running, within_s=within_s, what=f"{self.name} to end")
        return self.process.returncode

    async def stop(self, *, within_s: float = STOP_S) -> int:
        """End it in order (SIGTERM) and return its exit code."""
        self.thaw()
        self.send(signal.SIGTERM)
        return await self.ended(within_s=within_s)

    def said(self) -> str:
        """Everything that it wrote."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Machine:
    """A folder, an environment and a mark: what is common to a cluster's processes."""

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = secrets.token_hex(8)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FLOWCTL_", "HEADRACE_"))
        }
        path = [str(TESTS), *filter(None, [inherited.get("PYTHONPATH", "")])]
        self.env = inherited | {
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PYTHONPATH": os.pathsep.join(path),
            "NO_COLOR": "1",
            MARK: self.mark,
        }
        self.env |= env or {}
        self.programs: dict[str, Program] = {}

    def add(
        self,
        name: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        first: str = "",
    ) -> Program:
        """Return a new program (see `Program`); it is not started."""
        assert name not in self.programs
        env = self.env | dict(env or {})
        made = Program(name, arguments, folder=self.folder, env=env, prefix=prefix, first=first)
        self.programs[name] = made
        return made

    async def flowctl(
        self,
        *arguments: str,
        within_s: float = 30.0,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Ran:
        """Run a command to its end."""
        process = await self.spawn(*arguments, env=env)
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin.encode()), within_s)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    async def spawn(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start a command with pipes; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _FLOWCTL),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self.env, **(env or {})},
            cwd=self.folder,
        )

    def marked(self) -> dict[int, str]:
        """Return the live processes that descend from ours: pid -> command line."""
        return bearing(f"{MARK}={self.mark}")

    def sweep(self) -> None:
        """Kill whatever is left of our processes."""
        for pid in self.marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def show_logs(self) -> None:
        """Print the ends of all logs; pytest shows them when the test has failed."""
        for path in sorted(self.folder.rglob("*.log")):
            tail = path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
            print(f"--- {path.relative_to(self.folder)}\n{tail}")


# -- small things ----------------------------------------------------------------------------------


async def until(
    condition: Callable[[], object], *, within_s: float, what: str = "a condition"
) -> None:
    """Return once *condition* is true; fail when it is not in `PATIENCE` times *within_s*."""
    deadline = time.monotonic() + within_s * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s * PATIENCE} s for {what}"
        await asyncio.sleep(POLL_S)


async def wait_for(
    look: Callable[[], Awaitable[Any]], *, within_s: float, what: str = "a value"
) -> Any:
    """Return what *look* finds, once that is something; fail when it is nothing in time.

    In time is `PATIENCE` times *within_s*.
    """
    deadline = time.monotonic() + within_s * PATIENCE
    while not (found := await look()):
        assert time.monotonic() < deadline, f"waited {within_s * PATIENCE} s for {what}"
        await asyncio.sleep(POLL_S)
    return found


def free_ports(count: int) -> int:
    """Return the first of *count* ports in a row that nobody listens on just now."""
    for _ in range(100):
        first = free_port()
        if first + count < 65_536 and all(_free(first + n) for n in range(1, count)):
            return first
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def http_get(port: int, path: str) -> tuple[int, str]:
    """Return status and body of a GET on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@contextlib.contextmanager
def logs_shown(machine: Machine) -> Iterator[None]:
    """Print the logs when the block ends; pytest keeps them to itself unless a test fails."""
    try:
        yield
    finally:
        machine.show_logs()
