"""Which tests may be skipped, and why: `tests/skips.toml`, read by the root conftest.

Plain `pytest` skips as it always does. With ``--strict-skips`` (`.ci/run` passes it) a skipped
test that is not on the list fails the run, so that no test is lost unnoticed.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LISTED_MAX = 100


class Allowed(NamedTuple):
    """One entry of the list."""

    test: str
    """Node id, or a pattern with `*` and `?`; brackets stand for themselves."""
    reason: str

    def covers(self, node_id: str) -> bool:
        """Tell whether this entry allows *node_id* to be skipped."""
        return fnmatch.fnmatchcase(node_id, self.test.replace("[", "[[]"))


def read(path: Path) -> list[Allowed]:
    """Return the list in *path*; raises `ValueError` when an entry has no test or no reason."""
    found = []
    for entry in tomllib.loads(path.read_text("utf-8")).get("skip", []):
        if set(entry) != {"test", "reason"} or not all(str(v).strip() for v in entry.values()):
            raise ValueError(
                f"{path}: an entry needs `test` and `reason`, and nothing else: {entry}"
            )
        found.append(Allowed(entry["test"], entry["reason"]))
    if len(found) > LISTED_MAX:
        raise ValueError(f"{path}: {len(found)} entries are too many to be exceptions")
    return found


def unlisted(skipped: Iterable[str], allowed: Iterable[Allowed]) -> list[str]:
    """Return what was skipped without being on the list, sorted."""
    entries = list(allowed)
    return sorted({s for s in skipped if not any(entry.covers(s) for entry in entries)})
