"""The handlers of one worker, by name."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any, Final

from headrace.errors import InvalidConfig
from headrace.sdk import App
from headrace.worker.handlers._apps import handlers_of
from headrace.worker.handlers._handler import Handler, handler_of, load_attribute

ENTRY_POINTS: Final = "headrace.handlers"
HANDLERS_MAX: Final = 1_000


class Registry:
    """Names to handlers; a name is taken once."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers: dict[str, Handler] = {}
        self._gone: set[str] = set()
        self.apps: dict[str, App] = {}
        """Applications of `headrace.sdk`, by capability (``app:<name>@<version>``)."""
        self._served: dict[str, tuple[App, int]] = {}
        """The same, and how many workflows they had: one may be defined later."""
        self.lookup = self._handlers.get
        """``lookup(name)`` returns the handler or None."""
        for handler in handlers:
            self.add(handler)

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, thing: object, *, source: str = "") -> None:
        """Add a `Handler`, or a function marked with `@handler`.

        Raises `InvalidConfig` on anything else, on a name that is taken, or on too many.
        """
        found = handler_of(thing)
        if found is None:
            raise InvalidConfig("worker.apps", f"{source or thing!r} is not a handler")
        if found.name in self._handlers:
            raise InvalidConfig("worker.apps", f"two handlers are called {found.name!r}")
        if len(self._handlers) >= HANDLERS_MAX:
            raise InvalidConfig("worker.apps", f"more than {HANDLERS_MAX} handlers")
        self._handlers[found.name] = found

    def replace(self, names: Iterable[str], handlers: Iterable[Handler]) -> None:
        """Put *handlers* in the place of those called *names*: all of them, or none.

        Steps that run keep what they began with. Raises `InvalidConfig` as `add` does.
        """
        old, new = set(names), list(handlers)
        for handler in new:
            if handler.name in self._handlers and handler.name not in old:
                raise InvalidConfig("worker.plugins", f"{handler.name!r} is taken")
        if len(self._handlers) - len(old) + len(new) > HANDLERS_MAX:
            raise InvalidConfig("worker.plugins", f"more than {HANDLERS_MAX} handlers")
        for name in old:
            del self._handlers[name]
        self._handlers.update((handler.name, handler) for handler in new)
        self._gone = (self._gone | old) - self._handlers.keys()

    def was_removed(self, name: str) -> bool:
        """Tell whether the handler *name* was here until it was taken away."""
        return name in self._gone

    def add_entry_points(self) -> None:
        """Add what installed distributions register under `headrace.handlers`.

        A handler that declares no version has that of its distribution.
        """
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            thing = load_attribute(entry.value)
            found = handler_of(thing)
            if found is not None and not found.version and entry.dist is not None:
                found.version = entry.dist.version
            self.add(thing, source=entry.value)

    def add_app(self, reference: str) -> None:
        """Add the handlers of ``package.module:app``; its `.handlers` maps names to functions.

        An `App` of `headrace.sdk` brings its workflows and its capability, too.
        """
        app = load_attribute(reference)
        if isinstance(app, App):
            self.serve(app)
            return
        for found in _mapped(reference, app):
            self.add(found, source=reference)

    def renew(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Put apps in the place of what they were, by ``package.module:app``: all, or none.

        What they were must be here. Raises `InvalidConfig` as `add` does, and for an app of
        another version: what a worker offers was said when it started.
        """
        for reference, app in new.items():
            before, now = (getattr(x, "capability", "") for x in (old[reference], app))
            if before != now:
                text = f"{reference!r} is {now or 'no app'} now, and was {before or 'no app'}: "
                raise InvalidConfig("worker.apps", f"{text}start the worker again")
        names = [h.name for reference, app in old.items() for h in _all_of(reference, app)]
        found = [h for reference, app in new.items() for h in _all_of(reference, app)]
        self.replace(names, found)
        for app in new.values():
            if isinstance(app, App):
                self.apps[app.capability] = app

    def serves(self, app: App) -> bool:
        """Tell whether *app* was added with all the workflows that it has by now."""
        return self._served.get(app.capability) == (app, len(app.workflows))

    def serve(self, app: App) -> None:
        """Add an application of `headrace.sdk`; again, with what it has now, it takes its place.

        Raises `InvalidConfig` for names that are taken.
        """
        if self.serves(app):
            return
        old = self.apps.get(app.capability)
        before = handlers_of(old) if old is not None else []
        # It may have more by now than when it was added.
        self.replace([one.name for one in before if one.name in self], handlers_of(app))
        self.apps[app.capability] = app
        self._served[app.capability] = (app, len(app.workflows))

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the handlers that are not built in, with their inputs, for heartbeats."""
        return {
            name: handler.describe()
            for name, handler in sorted(self._handlers.items())
            if not handler.builtin
        }


def _all_of(reference: str, app: Any) -> list[Handler]:
    return handlers_of(app) if isinstance(app, App) else _mapped(reference, app)


def _mapped(reference: str, app: Any) -> list[Handler]:
    """Return what `.handlers` of *app* maps names to. Raises `InvalidConfig`."""
    handlers = getattr(app, "handlers", None)
    if not isinstance(handlers, Mapping):
        raise InvalidConfig("worker.apps", f"{reference!r} has no mapping `handlers`")
    mapped: list[Handler] = []
    for name, thing in handlers.items():
        if not isinstance(name, str):
            raise InvalidConfig("worker.apps", f"{reference!r}: {name!r} is no name")
        found = handler_of(thing)
        if found is None or found.name != name:
            function = found.function if found is not None else thing
            if not callable(function):
                raise InvalidConfig("worker.apps", f"{reference!r}: {name} is no function")
            found = Handler(name, function, version=found.version if found else "")
        mapped.append(found)
    return mapped
