"""Programs that are run to their end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

RUN_S = 60


class Failed(Exception):
    """A program or a step failed; its words."""


def run(
    *command: str | Path,
    timeout_s: float = RUN_S,
    text: str | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Run a program; return what it prints. Raises `Failed`, also when it takes too long."""
    words = [str(word) for word in command]
    try:
        ran = subprocess.run(
            words, capture_output=True, text=True, input=text, timeout=timeout_s, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(words[:6])}: no end within {timeout_s:.0f} s") from error
    except OSError as error:
        raise Failed(f"{words[0]}: {error}") from error
    if ran.returncode:
        raise Failed(f"{' '.join(words[:6])}: {(ran.stderr + ran.stdout).strip()}")
    return ran.stdout


def until(
    what: str,
    check: Callable[[], object],
    within_s: float,
    *,
    pause_s: float = 1.0,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Wait until *check* holds; it may raise `Failed` until then. Raises `Failed`, as *alive* may
    at once."""
    end = time.monotonic() + within_s
    why: object = ""
    while time.monotonic() < end:
        alive()
        try:
            if check():
                return
        except Failed as error:
            why = error
        time.sleep(pause_s)
    raise Failed(f"not within {within_s:.0f} s: {what}; {why}")
