"""Events from outside, as the system shard remembers them: plain records."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core.matching import Matcher
from headrace.events import BegunByEvent


class TriggerFacts:
    """What events have begun of a definition."""

    __slots__ = ("failed", "last_ms", "last_run", "problem", "problem_ms", "started")

    def __init__(self) -> None:
        self.started = self.failed = self.last_ms = self.problem_ms = 0
        self.last_run = self.problem = ""

    def image(self) -> list[Any]:
        """Return them as plain data."""
        return [
            self.started,
            self.failed,
            self.last_ms,
            self.last_run,
            self.problem,
            self.problem_ms,
        ]

    @classmethod
    def of(cls, image: list[Any]) -> TriggerFacts:
        """Return what `image` was made of."""
        facts = cls()
        facts.started, facts.failed, facts.last_ms, facts.last_run = image[:4]
        facts.problem, facts.problem_ms = image[4:6]
        return facts


class Held(NamedTuple):
    """A run that begins when no other event like its own has come for a while."""

    begun: BegunByEvent
    first_ms: int
    """When the first event of them came."""
    due_ms: int


class Incoming:
    """How far their stream was read, and who waits for them."""

    __slots__ = ("held", "matchers", "position", "stream", "triggers")

    def __init__(self) -> None:
        self.stream = ""
        """When it was made; '': nothing was read."""
        self.position = 0
        """Number of the last event that was looked at."""
        self.triggers: dict[str, TriggerFacts] = {}
        """Definitions with `on.event` -> what events have begun of them."""
        self.held: dict[str, Held] = {}
        """By definition, entry of `on.event` and key: see `HeldForQuiet`."""
        self.matchers: dict[str, list[tuple[str, str, Matcher]]] | None = None
        """Not state: namespace -> (definition, its version, an entry of its `on.event`); None: to
        be made from the definitions."""

    def behind(self, stream: str) -> int:
        """Return the number of the last event of *stream* that was looked at."""
        return self.position if self.stream == stream else 0

    def image(self) -> list[Any]:
        """Return it as plain data; nothing if nothing was read and nobody waits."""
        if not self.stream and not self.triggers:
            return []
        facts = [(key, found.image()) for key, found in sorted(self.triggers.items())]
        held = [(name, *found) for name, found in sorted(self.held.items())]
        return [self.stream, self.position, facts, held]

    @classmethod
    def of(cls, image: list[Any]) -> Incoming:
        """Return what `image` was made of."""
        incoming = cls()
        if image:
            incoming.stream, incoming.position = image[:2]
            incoming.triggers = {key: TriggerFacts.of(found) for key, found in image[2]}
            for name, begun, *facts in image[3] if len(image) > 3 else ():
                incoming.held[name] = Held(msgspec.convert(begun, BegunByEvent), *facts)
        return incoming
