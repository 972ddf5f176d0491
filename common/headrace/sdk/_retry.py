"""`Retry`: when a failed step is tried again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headrace.errors import InvalidRequest
from headrace.retry import Backoff, RetryPolicy
from headrace.sdk._durations import Duration, to_ms


class Retry:
    """A policy: attempts in all, pauses between them, and which errors are worth it.

    *initial*, *maximum* and *max_elapsed* are durations. *backoff*: `exponential` multiplies the
    pause by *factor* each time, `fixed` keeps it, `random` draws it between *initial* and
    *maximum*. *jitter* (0 to 1) is the share of a pause that chance takes away. *on* and *not_on*
    are exception classes or their names; subclasses count. Raises `InvalidRequest`.
    """

    __slots__ = ("policy",)

    def __init__(
        self,
        max_attempts: int = 3,
        *,
        initial: Duration = 1.0,
        factor: float = 2.0,
        maximum: Duration = 60.0,
        backoff: Backoff = "exponential",
        jitter: float = 0.1,
        max_elapsed: Duration | None = None,
        on: Iterable[type[BaseException] | str] = (),
        not_on: Iterable[type[BaseException] | str] = (),
    ) -> None:
        if max_attempts < 1 or factor < 1 or not 0 <= jitter <= 1:
            raise InvalidRequest("Retry: max_attempts and factor are 1 or more, jitter 0 to 1")
        self.policy = RetryPolicy(
            max_attempts=max_attempts,
            backoff=backoff,
            initial_ms=to_ms(initial),
            factor=factor,
            max_ms=to_ms(maximum),
            jitter=jitter,
            max_elapsed_ms=None if max_elapsed is None else to_ms(max_elapsed),
            retry_on=tuple(map(_name, on)),
            not_on=tuple(map(_name, not_on)),
        )

    def __repr__(self) -> str:
        return f"Retry({self.policy.max_attempts}, backoff={self.policy.backoff!r})"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Retry) and other.policy == self.policy

    def __hash__(self) -> int:
        return hash(self.policy)


def retry_of(policy: RetryPolicy) -> Retry:
    """Return the `Retry` whose policy is *policy*."""
    found = Retry()
    found.policy = policy
    return found


def matched_type(policy: RetryPolicy, error: BaseException, name: str) -> str:
    """Return the name under which *policy* knows *error*: one of its classes, else *name*."""
    names = [kind.__name__ for kind in type(error).__mro__]
    for wanted in (policy.not_on, policy.retry_on):
        for found in names:
            if found in wanted:
                return found
    return name


def _name(kind: type[BaseException] | str) -> str:
    return kind if isinstance(kind, str) else kind.__name__
