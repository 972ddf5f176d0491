"""What a workflow function sees when something did not work.

::

    OperationFailed          what was awaited has failed for good; `type`, `message`, `key`
    ├── StepFailed           a step, after its retries; also `attempts`
    │   └── EffectUnknown    an at-most-once step whose worker was lost: nobody knows
    ├── ChildFailed          a child workflow, a call of a handler, or a plan
    └── SignalTimeout        no signal came in time, and there is no default
    JoinFailed               too few of several; `errors`
    NonRetryable             raised by a step: another attempt will not mend it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.errors import HeadraceError
from headrace.messages import StepError

MESSAGE_CHARS_MAX = 4_000
EFFECT_UNKNOWN = "effect-unknown"


class OperationFailed(HeadraceError):
    """What was awaited has failed for good."""

    code = "operation-failed"

    def __init__(self, what: str, key: str, error: StepError, *, attempts: int = 0) -> None:
        self.what, self.key, self.attempts = what, key, attempts
        """`what`: for people. `key`: of the journal's entry. `attempts`: how many failed."""
        self.type, self.message = error.type, error.message
        """`type`: short and stable, the class of the exception that a step raised."""
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"{what} failed{tries}: {error.type}: {error.message}")


class StepFailed(OperationFailed):
    """A step has failed, and its policy allows no further attempt."""


class EffectUnknown(StepFailed):
    """An at-most-once step may have taken place, or not: its worker was lost in the middle.

    It is never run again. Find out in another step, ask a person, or fail.
    """


class ChildFailed(OperationFailed):
    """A run that was begun here has failed or was cancelled."""


class SignalTimeout(OperationFailed):
    """No signal came in time."""


class JoinFailed(HeadraceError):
    """Too many of several operations have failed for the join to succeed."""

    code = "join-failed"

    def __init__(self, needed: int, total: int, errors: Sequence[BaseException]) -> None:
        self.needed, self.total, self.errors = needed, total, tuple(errors)
        first = f"; the first: {errors[0]}" if errors else ""
        super().__init__(f"{len(errors)} of {total} failed, {needed} had to succeed{first}")


class NonRetryable(Exception):
    """Raise it in a step, or derive from it: another attempt will not mend this."""


class StepFailure(Exception):
    """An attempt has failed inside the SDK itself: `type` is no class name of the user's."""

    def __init__(self, type: str, message: str, *, retryable: bool = True) -> None:
        self.type, self.message, self.retryable = type, message, retryable
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _step_failure, (self.type, self.message, self.retryable)


def _step_failure(type: str, message: str, retryable: bool) -> StepFailure:
    return StepFailure(type, message, retryable=retryable)


def error_of(error: BaseException) -> StepError:
    """Return what is recorded of an exception: no traceback."""
    if isinstance(error, OperationFailed):
        return StepError(error.type, str(error)[:MESSAGE_CHARS_MAX], False)
    if isinstance(error, StepFailure):
        return StepError(error.type, error.message[:MESSAGE_CHARS_MAX], error.retryable)
    retryable = not isinstance(error, NonRetryable)
    return StepError(type(error).__name__, str(error)[:MESSAGE_CHARS_MAX], retryable)
