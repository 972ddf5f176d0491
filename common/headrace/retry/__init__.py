"""Arithmetic of retries: given an attempt and an error, when (if ever) to try again. Pure."""

from headrace.retry._policy import Backoff, GiveUp, RetryAt, RetryDecision, RetryPolicy

__all__ = ["Backoff", "GiveUp", "RetryAt", "RetryDecision", "RetryPolicy"]
