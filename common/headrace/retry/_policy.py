"""Retry policies and the decision they make.

Backoff with jitter as in M. Brooker, "Exponential Backoff And Jitter" (2015): the jitter is a
fraction of the delay that the caller's random number takes away, so delays never pass the cap.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Backoff: TypeAlias = Literal["fixed", "exponential", "random"]

_EXPONENT_MAX = 32
"""`factor ** attempt` of a long-lived step would grow without a bound."""


class RetryAt(msgspec.Struct, frozen=True, array_like=True):
    """Try again at `due_ms` (milliseconds since the epoch)."""

    due_ms: int


class GiveUp(msgspec.Struct, frozen=True, array_like=True):
    """Do not try again; `reason` is one of the four below."""

    reason: Literal["attempts_exhausted", "time_exhausted", "not_retryable", "no_policy"]


RetryDecision: TypeAlias = RetryAt | GiveUp


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often and when to run a failed step again."""

    max_attempts: int = 3
    """Attempts in all, the first one included."""
    backoff: Backoff = "exponential"
    """`random` draws each delay evenly from `initial_ms` to `max_ms`."""
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    """Cap of one delay."""
    jitter: float = 0.1
    """Share of each delay that chance may take away, 0 to 1."""
    max_elapsed_ms: int | None = None
    """No attempt begins later than this after the first one began."""
    retry_on: tuple[str, ...] = ()
    """Error types worth another attempt; empty: all but those of `not_on`."""
    not_on: tuple[str, ...] = ()
    """Error types that another attempt cannot mend."""

    def decide(
        self,
        *,
        attempt: int,
        error_type: str,
        retryable: bool,
        now_ms: int,
        first_started_ms: int,
        jitter: float,
    ) -> RetryDecision:
        """Decide after *attempt* (from 1) has failed with *error_type* at *now_ms*.

        *jitter* is a random number in [0, 1) from the command: the arithmetic itself draws none.
        *retryable* is the handler's own word: False ends the matter.
        """
        if not retryable or error_type in self.not_on:
            return GiveUp("not_retryable")
        if self.retry_on and error_type not in self.retry_on:
            return GiveUp("not_retryable")
        if attempt >= self.max_attempts:
            return GiveUp("attempts_exhausted")
        due_ms = now_ms + self.delay_ms(attempt=attempt, jitter=jitter)
        if self.max_elapsed_ms is not None and due_ms - first_started_ms > self.max_elapsed_ms:
            return GiveUp("time_exhausted")
        return RetryAt(due_ms)

    def delay_ms(self, *, attempt: int, jitter: float) -> int:
        """Return the pause after *attempt* (from 1), in milliseconds; never over `max_ms`."""
        if self.backoff == "random":
            low = min(self.initial_ms, self.max_ms)
            return int(low + (self.max_ms - low) * jitter)
        delay = float(self.initial_ms)
        if self.backoff == "exponential":
            try:
                delay *= self.factor ** min(attempt - 1, _EXPONENT_MAX)
            except OverflowError:
                delay = float(self.max_ms)
        delay = min(delay, float(self.max_ms))
        return int(delay * (1.0 - self.jitter * jitter))
