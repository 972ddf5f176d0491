"""Events from outside, as the system shard remembers them: plain records."""

from __future__ import annotations

from typing import Any

from headrace.coordinator.core.matching import Matcher


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


class Incoming:
    """How far their stream was read, and who waits for them."""

    __slots__ = ("matchers", "position", "stream", "triggers")

    def __init__(self) -> None:
        self.stream = ""
        """When it was made; '': nothing was read."""
        self.position = 0
        """Number of the last event that was looked at."""
        self.triggers: dict[str, TriggerFacts] = {}
        """Definitions with `on.event` -> what events have begun of them."""
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
        return [self.stream, self.position, facts]

    @classmethod
    def of(cls, image: list[Any]) -> Incoming:
        """Return what `image` was made of."""
        incoming = cls()
        if image:
            incoming.stream, incoming.position = image[:2]
            incoming.triggers = {key: TriggerFacts.of(found) for key, found in image[2]}
        return incoming
