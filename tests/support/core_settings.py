"""How hard the core's properties are tried: `HEADRACE_HYPOTHESIS=thorough` for the long form."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

THOROUGH = os.environ.get("HEADRACE_HYPOTHESIS") == "thorough"
_FACTOR = 20
TIMEOUT_S = 3_600 if THOROUGH else 120


def examples(count: int, *, steps: int = 25) -> settings:
    """Return the settings for *count* examples (of *steps* rules); many more if thorough."""
    return settings(
        max_examples=count * _FACTOR if THOROUGH else count,
        stateful_step_count=2 * steps if THOROUGH else steps,
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )
