"""Handlers from a watched folder of Python files: loaded, replaced and removed while steps run.

Each ``*.py`` (not those that begin with ``_`` or ``.``) is a module of its own. A running step
keeps the function that it began with. A file that cannot be loaded changes nothing but `problems`:
the version before it stays. The folder is looked at every `POLL_S`; that works on any file system,
also for a ConfigMap whose files are links.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from headrace.errors import InvalidConfig
from headrace.threads import Threads
from headrace.worker.handlers import Handler, Registry, handler_of
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

FILE_BYTES_MAX: Final = 1024 * 1024
FILES_MAX: Final = 200


class _Plugin(msgspec.Struct):
    """What is known of one file."""

    stamp: Stamp
    """When it was last looked at."""
    digest: str = ""
    """Of the version that is loaded; empty: none."""
    module: str = ""
    handlers: list[Handler] = []
    problem: str = ""


class Plugins:
    """The folder of one worker. `scan` looks once; `run` for ever."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        *,
        on_change: Callable[[], None] = lambda: None,
        load_s: float = LOAD_S,
    ) -> None:
        self._folder, self._registry, self._load_s = folder, registry, load_s
        self.on_change = on_change
        """Called after the handlers or the problems have changed."""
        self._plugins: dict[Path, _Plugin] = {}
        self._threads = Threads("headrace-plugin")
        self._folder_problem = ""

    @property
    def problems(self) -> list[str]:
        """What is wrong, one line a file."""
        found = [self._folder_problem] if self._folder_problem else []
        for path, plugin in sorted(self._plugins.items()):
            if plugin.problem:
                kept = f"; {', '.join(h.name for h in plugin.handlers)} stays as it was"
                found.append(f"{path.name}: {plugin.problem}{kept if plugin.handlers else ''}")
        return found

    async def run(self) -> None:
        """Look every `POLL_S`, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.scan()

    async def scan(self) -> bool:
        """Look at the folder once, and do what has changed; tell whether anything has."""
        before = self.problems
        try:
            there = await asyncio.to_thread(_stamps, self._folder)
            self._folder_problem = ""
        except OSError as error:
            # It may come back, and a file system that hiccups must not take handlers away.
            self._folder_problem = f"{self._folder}: {error.strerror or error}"
            return self._told(before, changed=False)
        changed = False
        for path in [path for path in self._plugins if path not in there]:
            changed |= self._remove(path)
        for path, stamp in there.items():
            known = self._plugins.get(path)
            # Names may have become free for a file that was refused.
            if known is None or known.stamp != stamp or (changed and known.problem):
                changed |= await self._load(path, stamp)
        return self._told(before, changed=changed)

    def _told(self, before: list[str], *, changed: bool) -> bool:
        for problem in self.problems:
            if problem not in before:
                log.error("plug-in not loaded", extra={"problem": problem})
        if changed or before != self.problems:
            self.on_change()
            return True
        return False

    def _remove(self, path: Path) -> bool:
        plugin = self._plugins.pop(path)
        if not plugin.handlers:
            return False
        self._registry.replace([handler.name for handler in plugin.handlers], [])
        sys.modules.pop(plugin.module, None)
        log.info("plug-in removed", extra={"file": path.name, "handlers": _names(plugin.handlers)})
        return True

    async def _load(self, path: Path, stamp: Stamp) -> bool:
        """Load a file that is new or has changed; True when handlers have changed."""
        plugin = self._plugins.setdefault(path, _Plugin(stamp))
        plugin.stamp = stamp
        try:
            data = await asyncio.to_thread(_read, path)
            digest = hashlib.sha256(data).hexdigest()
            if digest == plugin.digest:
                plugin.problem = ""
                return False
            module = await self._executed(path, data, digest)
            handlers = _handlers_of(module, digest)
            self._registry.replace([handler.name for handler in plugin.handlers], handlers)
        except InvalidConfig as error:
            plugin.problem = error.reason[:PROBLEM_CHARS_MAX]
            return False
        except (OSError, Broken) as error:
            plugin.problem = str(error)[:PROBLEM_CHARS_MAX]
            return False
        if plugin.module:
            sys.modules.pop(plugin.module, None)
        plugin.digest, plugin.module, plugin.handlers = digest, module.__name__, handlers
        plugin.problem = ""
        log.info(
            "plug-in loaded",
            extra={"file": path.name, "handlers": _names(handlers), "digest": digest[:12]},
        )
        return True

    async def _executed(self, path: Path, data: bytes, digest: str) -> types.ModuleType:
        """Return the module that the file makes, in a thread: it may do anything."""
        module = types.ModuleType(f"headrace_plugin_{path.stem}_{digest[:12]}")
        module.__file__ = str(path)
        # Dataclasses and annotations look their module up.
        sys.modules[module.__name__] = module
        try:
            await loaded(self._threads, lambda: _execute(module, path, data), self._load_s)
        except Broken:
            sys.modules.pop(module.__name__, None)
            raise
        return module


def _execute(module: types.ModuleType, path: Path, data: bytes) -> None:
    """Run the file. Raises `Broken`."""
    try:
        exec(compile(data, str(path), "exec"), module.__dict__)
    except BaseException as error:
        # SystemExit too: a file cannot end the worker.
        _, line = place_of(error, (str(path),))
        raise Broken(f"line {line}: {said(error)}" if line else said(error)) from error


def _handlers_of(module: types.ModuleType, digest: str) -> list[Handler]:
    """Return the handlers that the module itself defines, each with a version."""
    found: dict[str, Handler] = {}
    for thing in list(vars(module).values()):
        handler = handler_of(thing)
        if handler is None or handler.function.__module__ != module.__name__:
            continue
        if found.get(handler.name, handler) is not handler:
            raise InvalidConfig("worker.plugins", f"two handlers are called {handler.name!r}")
        found[handler.name] = handler
    if not found:
        raise Broken("no function is marked with @handler")
    for handler in found.values():
        handler.version = handler.version or f"sha256:{digest[:12]}"
    return list(found.values())


def _stamps(folder: Path) -> dict[Path, Stamp]:
    """Return the files of the folder that are plug-ins, as they are now."""
    found: dict[Path, Stamp] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".py" or path.name.startswith(("_", ".")):
            continue
        stamp = stamp_of(path)
        if stamp is None:
            continue  # it went in this moment
        found[path] = stamp
        if len(found) >= FILES_MAX:
            break
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise Broken(f"over {FILE_BYTES_MAX} bytes")
    return data


def _names(handlers: list[Handler]) -> list[str]:
    return sorted(handler.name for handler in handlers)
