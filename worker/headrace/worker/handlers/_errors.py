"""The error with which a handler says why its step failed."""

from __future__ import annotations

from typing import Any


class HandlerError(Exception):
    """The step failed; `type` is short and stable, retry policies name it.

    *output* holds what the step produced all the same, a command's exit code for instance.
    """

    def __init__(
        self,
        type: str,
        message: str,
        retryable: bool = True,
        *,
        output: dict[str, Any] | None = None,
    ) -> None:
        self.type, self.message, self.retryable = type, message, retryable
        self.output = output
        super().__init__(message)
