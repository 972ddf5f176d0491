"""What clients saw: one line of JSON for each operation, written before anything else happens.

`outcome` is `ok` (acknowledged), `refused` (a definite error) or `unknown` (no answer in time).
Times are nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from headrace.errors import Busy, HeadraceError, Unavailable, Unreachable

UNKNOWN = (Busy, Unavailable, Unreachable)


class Record:
    """The file, open for as long as the rounds last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.round = 0
        self.operations: list[dict[str, Any]] = []
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        self._ids = itertools.count(1)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def next_id(self) -> str:
        """Return an id that no other operation has."""
        return f"o{next(self._ids)}"

    def note(self, op: str, **facts: Any) -> None:
        """Write one line."""
        line = {"op": op, "round": self.round, **facts}
        self.operations.append(line)
        os.write(self._file, json.dumps(line).encode() + b"\n")

    async def attempt(self, op: str, run: str, work: Awaitable[Any], **facts: Any) -> str:
        """Do *work*, write down what became of it, and return that: `ok`, `refused`, `unknown`."""
        begun = time.monotonic_ns()
        outcome, said = "ok", ""
        try:
            await work
        except HeadraceError as error:
            outcome = "unknown" if isinstance(error, UNKNOWN) else "refused"
            said = f"{type(error).__name__}: {error}"
        self.note(
            op,
            run=run,
            outcome=outcome,
            said=said,
            begun=begun,
            ended=time.monotonic_ns(),
            **facts,
        )
        return outcome
