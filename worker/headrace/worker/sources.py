"""Where a worker's secrets and variables come from: its environment, a folder, or a file.

``HEADRACE_SECRET_<NAME>`` and ``HEADRACE_VAR_<NAME>`` in the environment; in a folder one file for
each name (a mounted Kubernetes Secret or ConfigMap, say); in a file ``NAME=value`` lines and
``NAME<<MARK`` blocks. What comes from a path goes before the environment, and is read anew when a
step starts, at most once in `FRESH_S`: secrets rotate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from headrace.errors import InvalidConfig
from headrace.worker.builtin.commands import BadFile, parse_assignments
from headrace.worker.handlers import HandlerError

SECRET_PREFIX: Final = "HEADRACE_SECRET_"
VARIABLE_PREFIX: Final = "HEADRACE_VAR_"
FRESH_S: Final = 1.0
VALUE_BYTES_MAX: Final = 64 * 1024
"""Of one value; a longer one is an error, not a piece of a key."""
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
COUNT_MAX: Final = 1_000


class Source:
    """Values by name, of one kind. `read` may be called from any thread."""

    def __init__(
        self,
        prefix: str,
        path: Path | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._now_s = path, now_s
        variables = os.environ if environ is None else environ
        self._from_environ = {
            name.removeprefix(prefix): value
            for name, value in variables.items()
            if name.startswith(prefix) and name != prefix
        }
        self._known: Mapping[str, str] = self._from_environ
        self._read_s = -FRESH_S

    def check(self, key: str) -> None:
        """Raise `InvalidConfig` for the setting *key* unless everything can be read."""
        if self._path is None:
            return
        try:
            self.read()
        except HandlerError as error:
            raise InvalidConfig(key, error.message) from error

    def read(self) -> Mapping[str, str]:
        """Return all values; the same mapping as long as nothing has changed.

        Raises `HandlerError` of type `values-unavailable`; it names a file and never a value.
        """
        if self._path is None or self._now_s() - self._read_s < FRESH_S:
            return self._known
        try:
            found = _from_folder(self._path) if self._path.is_dir() else _from_file(self._path)
        except OSError as error:
            text = f"{error.filename or self._path}: {error.strerror or error}"
            raise HandlerError("values-unavailable", text) from error
        except (BadFile, UnicodeDecodeError) as error:
            # What is wrong with a line would show the line.
            text = f"{self._path}: a line is neither NAME=value nor a NAME<<MARK block"
            raise HandlerError("values-unavailable", text) from error
        merged = self._from_environ | found
        if merged != self._known:
            self._known = merged
        self._read_s = self._now_s()
        return self._known


def _from_folder(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        # Kubernetes keeps its own machinery in names with two dots in front.
        if path.name.startswith(".") or not path.is_file():
            continue
        if len(found) >= COUNT_MAX:
            raise HandlerError("values-unavailable", f"{folder}: over {COUNT_MAX} files")
        data = _bytes_of(path, VALUE_BYTES_MAX)
        found[path.name] = data.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    return found


def _from_file(path: Path) -> dict[str, str]:
    found = parse_assignments(_bytes_of(path, FILE_BYTES_MAX).decode())
    if len(found) > COUNT_MAX:
        raise HandlerError("values-unavailable", f"{path}: over {COUNT_MAX} names")
    return found


def _bytes_of(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise HandlerError("values-unavailable", f"{path}: over {bytes_max} bytes")
    return data


def secrets_at(path: str = "", environ: Mapping[str, str] | None = None) -> Source:
    """Return the source of secrets; raises `InvalidConfig` when *path* cannot be read."""
    source = Source(SECRET_PREFIX, Path(path) if path else None, environ)
    source.check("worker.secrets_path")
    return source


def variables_at(path: str = "", environ: Mapping[str, str] | None = None) -> Source:
    """Return the source of variables; raises `InvalidConfig` when *path* cannot be read."""
    source = Source(VARIABLE_PREFIX, Path(path) if path else None, environ)
    source.check("worker.vars_path")
    return source
