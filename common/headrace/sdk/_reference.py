"""What a reference to code names: ``package.module:attribute``."""

from __future__ import annotations

import importlib
from typing import Any

from headrace.errors import InvalidRequest


def resolve(reference: str) -> Any:
    """Return what *reference* names. Raises whatever the import of its module does."""
    module, _, name = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def resolved(reference: str) -> Any:
    """Return what *reference* names. Raises `InvalidRequest`, which says why it cannot."""
    try:
        return resolve(reference)
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(f"{reference!r}: {error}") from error
    except Exception as error:
        # A user's module may raise anything while it is imported.
        raise InvalidRequest(f"{reference!r}: {error!r}") from error
