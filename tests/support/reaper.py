"""Ends what a run of the tests has started, once the run is over, however it ends.

A run that is killed or interrupted tears nothing down: its servers would go on for ever. So every
process that descends from a run bears a mark in its environment, and a small process of its own
session waits for the end of the run, and kills what bears it. Only where there is `/proc`.

Run as a script it is that process: ``reaper.py MARK`` reads its stdin to the end first.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

NAME = "TESTS_OF"
ROUNDS = 50
"""Looks for what is left: what is killed may have started more a moment before."""
PAUSE_S = 0.1


def bearing(variable: str) -> dict[int, str]:
    """Return the live processes with *variable* (``NAME=value``) in their environment.

    pid -> command line. A process' environment is what it was started with.
    """
    found: dict[int, str] = {}
    wanted = variable.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if state not in "ZX":
            found[int(entry.name)] = command.strip()
    return found


def start() -> subprocess.Popen[bytes] | None:
    """Mark what is started from now on, and have it ended with this process, or with `end`."""
    if not Path("/proc/self/environ").exists():
        return None
    without = {name: value for name, value in os.environ.items() if name != NAME}
    os.environ[NAME] = secrets.token_hex(8)
    return subprocess.Popen(
        [sys.executable, "-S", __file__, f"{NAME}={os.environ[NAME]}"],
        stdin=subprocess.PIPE,
        env=without,
        start_new_session=True,
    )


def end(reaper: subprocess.Popen[bytes]) -> None:
    """End what is left now."""
    reaper.communicate(timeout=60)


def main() -> None:
    """Wait for the end of the run, then kill what bears the mark."""
    sys.stdin.buffer.read()
    for _ in range(ROUNDS):
        left = bearing(sys.argv[1])
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
