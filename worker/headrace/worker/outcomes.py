"""From what ended an attempt to what its result says."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Final

import msgspec

from headrace.errors import HeadraceError
from headrace.messages import ResultStatus, StepError, StepResult
from headrace.sdk import StepFailure
from headrace.worker.core import Assignment, Stop
from headrace.worker.handlers import HandlerError
from headrace.worker.masks import Masker

MESSAGE_CHARS_MAX: Final = 4_000
TRACEBACK_LINES_MAX: Final = 60

WORKER_STOPPED: Final = "worker-stopped"
"""Error type of attempts that a stopping worker killed: not the step's own fault."""


class HandBack(Exception):
    """The attempt has not started and will not: give it back to the owner."""


class NotGranted(Exception):
    """The owner says that this at-most-once attempt must not run."""


class TurnOver(Exception):
    """A turn of a workflow function is over, and its owner knows: there is no result to send."""


def failure(error: BaseException, masker: Masker) -> StepError:
    """Return what users see of *error*: never a traceback, and no secret.

    It is masked before it is cut, or half a secret might be left.
    """
    if isinstance(error, HandlerError):
        message = masker.text(error.message)[:MESSAGE_CHARS_MAX]
        return StepError(error.type, message, error.retryable)
    if isinstance(error, StepFailure):
        message = masker.text(error.message)[:MESSAGE_CHARS_MAX]
        return StepError(error.type, message, error.retryable)
    message = masker.text(str(error))[:MESSAGE_CHARS_MAX]
    return StepError(
        error.code if isinstance(error, HeadraceError) else type(error).__name__, message
    )


def is_surprise(error: BaseException) -> bool:
    """Tell whether *error* is none that a handler raises on purpose: its traceback is wanted."""
    return not isinstance(error, HandlerError | HeadraceError | StepFailure)


def traceback_lines(error: BaseException) -> Iterator[str]:
    """Yield the end of the traceback of *error*, line by line."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    yield from lines[-TRACEBACK_LINES_MAX:]


def stopped(stop: Stop) -> tuple[int, StepError]:
    """Return status and error of an attempt that died because of *stop*."""
    if stop.kind == "cancel":
        return ResultStatus.CANCELLED, StepError("cancelled", stop.message)
    if stop.kind == "shutdown":
        return ResultStatus.FAILED, StepError(WORKER_STOPPED, stop.message)
    return ResultStatus.FAILED, StepError(stop.kind, stop.message)


def unstarted(assignment: Assignment, status: int, reason: str, now_ms: int) -> StepResult:
    """Return the result of an attempt that never began."""
    task = assignment.task
    error = StepError("cancelled", reason) if status == ResultStatus.CANCELLED else None
    return StepResult(
        task.run,
        task.step,
        task.attempt,
        assignment.token,
        status,
        msgspec.Raw(b"\x80"),
        now_ms,
        now_ms,
        error,
    )
