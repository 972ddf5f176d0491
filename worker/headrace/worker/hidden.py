"""The worker's own secrets as a masker that is made once, and again when they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from headrace.worker.handlers import HandlerError
from headrace.worker.masks import Masker
from headrace.worker.ports import ValueSource

log = logging.getLogger(__name__)


class HiddenValues:
    """Knows what steps must not show. Values that were secrets once stay hidden."""

    def __init__(self, secrets: ValueSource) -> None:
        self._secrets = secrets
        self._seen: Mapping[str, str] | None = None
        self._masker = Masker()

    def masker(self) -> Masker:
        """Return the masker of all secrets; not to be added to (`Masker.copy` is)."""
        try:
            values = self._secrets.read()
        except HandlerError as error:
            # What was known is hidden; who needs a secret is told by the step that asks for it.
            log.warning("secrets cannot be read", extra={"error": error.message})
            return self._masker
        if values is self._seen:
            return self._masker
        masker = self._masker.copy()
        if not all([masker.add(value) for value in values.values()]):
            log.error("too many secrets: some are not hidden", extra={"secrets": len(values)})
        self._seen, self._masker = values, masker
        return masker
