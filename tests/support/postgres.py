"""A PostgreSQL server of the tests' own, on a free port of loopback.

The binaries are those of the Debian package `postgresql` (or whatever `PATH` or `pg_config` finds).
The server refuses to run as root, so as root it is started as `postgres` or `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.bus import free_port
from headrace.config import Postgres

PASSWORD = "p%w0rd:of/tests"
"""Needs quoting in a URL, so that it is quoted."""
START_S = 30.0
REASON = "no PostgreSQL server here (Debian package `postgresql`)"


def binaries() -> Path | None:
    """Return the folder with `initdb` and `postgres`, of the newest version found."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4)
    )
    whole = [path for path in found if (path / "initdb").exists() and (path / "postgres").exists()]
    return whole[-1] if whole else None


class PostgresServer:
    """Started, killed, frozen and started again; `remove` at the end."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._user = _user()
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
        self.data = self._folder / "data"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        if self._user:
            shutil.chown(self._folder, self._user)
        password = self.file("password", PASSWORD)
        self._run(
            *("initdb", "--pgdata", str(self.data), "--username", "headrace", "--no-sync"),
            *("--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256"),
            *("--pwfile", str(password)),
        )

    def file(self, name: str, text: str | bytes) -> Path:
        """Write a file that the server can read, and nobody else."""
        path = self._folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(0o600)
        if self._user:
            shutil.chown(path, self._user)
        return path

    def url(self, options: str = "", *, database: str = "postgres") -> str:
        """Return the address, without the password."""
        return f"postgresql://headrace@127.0.0.1:{self.port}/{database}{options}"

    def start(self, *options: str) -> None:
        """Start, and return once it answers; *options* are settings, `ssl=on`."""
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            # Processes are killed here, no machine loses its power.
            "fsync=off",
            "shared_buffers=32MB",
            "max_connections=40",
            *options,
        ]
        arguments = [str(self._binaries / "postgres"), "-D", str(self.data)]
        with (self._folder / "log").open("ab") as output:
            self.process = subprocess.Popen(
                [*arguments, *(part for setting in settings for part in ("-c", setting))],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                start_new_session=True,
                user=self._user,
                extra_groups=[] if self._user else None,
            )
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash does: no checkpoint, every session torn."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGINT)

    def freeze(self) -> None:
        """Let every process of it stand still."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def log(self) -> str:
        """Return what the server wrote."""
        return (self._folder / "log").read_text(errors="replace")

    def psql(self, sql: str, *, database: str = "postgres") -> str:
        """Run *sql* as the superuser; return what it prints, unaligned, without heads."""
        return self._run(
            *("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-Atq"),
            *("-h", "127.0.0.1", "-p", str(self.port), "-U", "headrace", "-d", database, "-c", sql),
        )

    def remove(self) -> None:
        """Stop it, and delete its folder."""
        self.thaw()
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(START_S)
        self.process = None

    def _family(self) -> Sequence[int]:
        if self.process is None:
            return ()
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _answers(self) -> bool:
        """Tell whether it takes connections; `pg_isready` logs nothing in."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            ready = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1"]
            return subprocess.run([*ready, "-p", str(self.port)], timeout=10).returncode == 0
        return False

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "PGPASSWORD": PASSWORD},
            cwd=self._folder,
            user=self._user,
            extra_groups=[] if self._user else None,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode()


def own_schema(server: PostgresServer, options: str = "", **settings: Any) -> Postgres:
    """Return settings with a schema that nobody else uses; *options* of the URL, `?sslmode=…`."""
    made = {"url": server.url(options), "schema": f"s{secrets.token_hex(4)}"}
    if "password_file" not in settings:
        made["password"] = PASSWORD
    return Postgres(**(made | settings))


def _user() -> str | None:
    """Return who runs the server: somebody else if we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL does not run as root, and there is no user `nobody`")


@contextlib.contextmanager
def running(*options: str) -> Iterator[PostgresServer]:
    """Yield a server that runs with these settings; skips the test where there is none."""
    found = binaries()
    if found is None:
        pytest.skip(REASON)
    server = PostgresServer(found)
    try:
        server.start(*options)
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """One server for the session, never harmed; use schemas of your own on it."""
    with running() as server:
        yield server


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """One server for one test, which may treat it as it likes."""
    with running() as server:
        yield server
