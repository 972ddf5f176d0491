"""Hot reload: the modules of a worker's apps are imported anew when one of their files changes.

For development. Watched are the package that an app's module belongs to, or, for a module outside
of any package, the Python files beside it. All modules of the watched files are imported anew
together. A turn or step that runs keeps the code that it began with. Code that cannot be imported
changes nothing but `problems`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from headrace.errors import InvalidConfig
from headrace.sdk import renew_processes
from headrace.threads import Threads
from headrace.worker.handlers import Registry, load_attribute
from headrace.worker.loading import (
    LOAD_S,
    POLL_S,
    PROBLEM_CHARS_MAX,
    Broken,
    Stamp,
    loaded,
    place_of,
    said,
    stamp_of,
)

log = logging.getLogger(__name__)

FILES_MAX: Final = 2_000
_OURS: Final = "headrace"
_INSTALLED: Final = ("site-packages", "dist-packages")


class Reloading:
    """The code of one worker's apps. `scan` looks once; `run` for ever."""

    def __init__(
        self,
        references: Sequence[str],
        registry: Registry,
        *,
        on_change: Callable[[], None] = lambda: None,
        load_s: float = LOAD_S,
    ) -> None:
        """*references*: apps, each ``package.module:name``, that *registry* has already."""
        self._registry, self._load_s = registry, load_s
        self.on_change = on_change
        """Called after the code or the problem has changed."""
        self._apps = {reference: load_attribute(reference) for reference in references}
        self._roots = [_Root(reference.partition(":")[0]) for reference in references]
        self._threads = Threads("headrace-reload")
        self._stamps = self._look()
        self._problem = ""

    @property
    def problems(self) -> list[str]:
        """What is wrong with the files as they are: none or one line, with file and line."""
        return [self._problem] if self._problem else []

    async def run(self) -> None:
        """Look every `POLL_S`, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.scan()

    async def scan(self) -> bool:
        """Look at the files once, and load what has changed; tell whether anything has."""
        there = await asyncio.to_thread(self._look)
        old, self._stamps = self._stamps, there
        changed = {path for path in old.keys() | there.keys() if old.get(path) != there.get(path)}
        if not changed:
            return False
        modules = _modules_of(old.keys() | there.keys())
        try:
            apps = await loaded(
                self._threads, lambda: self._imported(modules, changed), self._load_s
            )
            self._registry.renew(self._apps, apps)
        except (Broken, InvalidConfig) as error:
            _restore(modules, there)
            text = error.reason if isinstance(error, InvalidConfig) else str(error)
            self._problem = f"{text[:PROBLEM_CHARS_MAX]}; the code before it goes on"
            log.error("app not loaded anew", extra={"problem": self._problem})
        else:
            self._apps, self._problem = apps, ""
            await asyncio.to_thread(renew_processes)
            names = sorted(path.name for path in changed)
            log.info("app loaded anew", extra={"files": names, "modules": len(modules)})
        self.on_change()
        return True

    def _look(self) -> dict[Path, Stamp]:
        """Return the watched files as they are now."""
        found: dict[Path, Stamp] = {}
        for path in (path for root in self._roots for path in root.files()):
            stamp = stamp_of(path)
            if stamp is not None and len(found) < FILES_MAX:
                found[path] = stamp
        return found

    def _imported(
        self, modules: dict[str, types.ModuleType], changed: Iterable[Path]
    ) -> dict[str, Any]:
        """Import the apps without *modules*, in a thread. Raises `Broken`."""
        for path in changed:
            # Python compares seconds and sizes: it would miss a second change within a second.
            with contextlib.suppress(OSError):
                Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        importlib.invalidate_caches()
        for name in modules:
            sys.modules.pop(name, None)
        try:
            return {reference: _attribute(reference) for reference in self._apps}
        except BaseException as error:
            # SystemExit too: a file cannot end the worker.
            file, line = place_of(error, {str(path) for path in self._stamps})
            raise Broken(f"{file}:{line}: {said(error)}" if file else said(error)) from error


class _Root:
    """Where the code of one app lies."""

    def __init__(self, module: str) -> None:
        """*module*: its dotted name; it is imported already."""
        self._folder: Path | None = None
        self._file = _file_of(sys.modules[module])
        parts = module.split(".")
        if parts[0] == _OURS:
            self._file = None
            return
        for count in range(1, len(parts) + 1):
            # A namespace package has no file; what lies below it is a package of its own.
            package = sys.modules[".".join(parts[:count])]
            file = _file_of(package)
            if file is not None and hasattr(package, "__path__"):
                self._folder = file.parent
                return

    def files(self) -> Iterable[Path]:
        """Return the Python files there; of a module outside of a package those beside it."""
        if self._folder is not None:
            return sorted(self._folder.rglob("*.py"))
        if self._file is None:
            return ()
        folder = self._file.parent
        return (self._file,) if folder.name in _INSTALLED else sorted(folder.glob("*.py"))


def _attribute(reference: str) -> Any:
    try:
        return load_attribute(reference)
    except InvalidConfig as error:
        # It knows what the module raised, and where.
        raise (error.__cause__ or error) from None


def _file_of(module: types.ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _modules_of(files: Iterable[Path]) -> dict[str, types.ModuleType]:
    """Return the modules of *files*, and the packages around them, which know them, too."""
    wanted = set(files)
    found = {
        name: module
        for name, module in list(sys.modules.items())
        if name != "__main__" and _file_of(module) in wanted
    }
    for name in list(found):
        parts = name.split(".")
        for count in range(1, len(parts)):
            parent = ".".join(parts[:count])
            found[parent] = sys.modules[parent]
    return found


def _restore(modules: dict[str, types.ModuleType], files: Iterable[Path]) -> None:
    """Let *modules* be those of *files* again."""
    for name in _modules_of(files):
        sys.modules.pop(name, None)
    sys.modules.update(modules)
