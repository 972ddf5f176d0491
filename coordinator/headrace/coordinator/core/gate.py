"""What stands before a node: the result that may be cached, a lock, a rate limit, in this order.

A node asks for one after the other, and begins when it has all of them. Each attempt of a step
asks anew: what it held goes back when the attempt ends.
"""

from __future__ import annotations

from typing import Any, Final

LOCK: Final = 1
RATE: Final = 2
CACHE: Final = 4
KINDS: Final = {"lock": LOCK, "rate": RATE, "cache": CACHE}
"""By the name in events."""


class Gate:
    """How far one node is."""

    __slots__ = (
        "cache", "holder", "key", "lock", "lock_holder", "passed", "rate", "rate_holder", "token",
        "ttl_ms", "until_ms", "wants",
    )  # fmt: skip

    def __init__(self) -> None:
        self.passed = 0
        """Bits of what it has."""
        self.wants = 0
        """What it waits for; 0: nothing."""
        self.key = self.holder = ""
        """Of what it waits for."""
        self.lock = self.lock_holder = ""
        """The key of its lock, and the name under which it holds it."""
        self.token = self.until_ms = 0
        """Of the lock; `until_ms` 0: it does not expire."""
        self.rate = self.rate_holder = ""
        """Its place within a rate limit, until it begins."""
        self.cache = ""
        """Under what key its result is to be kept; there was none."""
        self.ttl_ms = 0
        """For how long."""

    def holds(self, holder: str) -> bool:
        """Tell whether it has what it asked for under this name."""
        return bool(holder) and holder in (self.lock_holder, self.rate_holder)

    def image(self) -> list[Any]:
        """Return it as plain data."""
        return [getattr(self, name) for name in _FIELDS]

    @classmethod
    def of(cls, image: list[Any]) -> Gate:
        """Return what `image` was made of."""
        gate = cls()
        for name, value in zip(_FIELDS, image, strict=False):
            setattr(gate, name, value)
        return gate


_FIELDS: Final = (
    "passed", "wants", "key", "holder", "lock", "lock_holder", "token", "until_ms", "rate",
    "rate_holder", "cache", "ttl_ms",
)  # fmt: skip
"""The order is the format."""
