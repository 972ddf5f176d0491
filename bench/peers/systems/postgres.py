"""PostgreSQL with its default settings, fsync on, for the systems that keep their state in it."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from pathlib import Path

from bench.peers import install
from bench.peers.processes import Broken, Process, free_port

UNPRIVILEGED = ("postgres", "nobody")


def server_version() -> str:
    """Return the version of the server that is used."""
    programs, libraries = install.postgres()
    said = subprocess.run(
        [programs / "postgres", "--version"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env=install.clean_environment(LD_LIBRARY_PATH=str(libraries)),
    )
    return said.stdout.split()[2]


class Postgres(Process):
    """A server with an empty database `postgres`; not as root, which PostgreSQL refuses."""

    def __init__(self, folder: Path) -> None:
        programs, libraries = install.postgres()
        self._data, self._port = folder / "postgres", free_port()
        user = _unprivileged() if os.geteuid() == 0 else None
        self._initdb = [programs / "initdb", "-D", self._data, "-U", "postgres", "-A", "trust"]
        options = ["-p", str(self._port), "-h", "127.0.0.1", "-k", ""]
        options += ["-c", "fsync=on", "-c", "synchronous_commit=on"]
        options += ["-c", "max_connections=200", "-c", "jit=off"]
        super().__init__(
            "postgres",
            [programs / "postgres", "-D", self._data, *options],
            folder,
            environment={"LD_LIBRARY_PATH": str(libraries)},
            user=user,
        )

    def start(self) -> None:
        """Make the database and start the server; returns when it answers."""
        self._data.mkdir()
        if self._user is not None:
            os.chown(self._data, self._user, self._user)
        done = subprocess.run(
            [str(argument) for argument in self._initdb],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self._data,
            env=self._environment,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            check=False,
        )
        if done.returncode:
            raise Broken(f"initdb: {done.stderr.strip()[-300:]}")
        super().start()
        self.until_said("ready to accept connections")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop at once, but in order: connections are cut."""
        super().stop(number)

    def url(self, driver: str = "postgresql") -> str:
        """Return where clients connect."""
        return f"{driver}://postgres@127.0.0.1:{self._port}/postgres"


def _unprivileged() -> int:
    """Return the id of a user that the server may run as."""
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise Broken(f"PostgreSQL does not run as root, and there is none of {UNPRIVILEGED}")
