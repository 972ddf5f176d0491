"""Addresses of the broker as they may be shown: logins that stand in them are for nobody's eyes."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?"
    r"(?:.*@)?"
    r"(?P<place>(?:\[[0-9A-Fa-f:.%]+\]|[^\s/:@?#\[\]]+)(?::[0-9]{1,5})?)/?",
    re.DOTALL,
)
UNREADABLE = "(an address that cannot be read)"


def listed_addresses(texts: Iterable[str]) -> list[str]:
    """Return addresses that were given one by one, or several in a text, separated by commas."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def shown_address(address: str) -> str:
    """Return *address* without user name, password or token.

    What is no `scheme://login@host:port` is not shown at all: anything in it may be a password.
    """
    found = _ADDRESS.fullmatch(address.strip())
    if found is None:
        return UNREADABLE
    return (found["scheme"] or "") + found["place"]


def shown_addresses(addresses: str | Iterable[str]) -> str:
    """Return several addresses, given one by one or separated by commas, as one text."""
    listed = addresses.split(",") if isinstance(addresses, str) else addresses
    return ", ".join(shown_address(address) for address in listed)
