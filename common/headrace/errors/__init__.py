"""Errors that a caller can act on.

::

    HeadraceError
    ├── InvalidDefinition     a workflow file or its input is wrong (exit 3)
    ├── InvalidConfig         a configuration key or value is wrong (exit 3)
    ├── InvalidRequest        a request cannot mean anything (exit 3)
    ├── NotFound              no such run, worker or definition (exit 4)
    ├── Conflict              the id is taken, the run has ended, … (exit 3)
    ├── LimitExceeded         a configured hard limit (exit 3)
    ├── Busy                  back-pressure: try again after `retry_after_ms` (exit 5)
    ├── Unreachable           the broker or the owner of a shard does not answer (exit 5)
    └── Unavailable           a server cannot do this now: no engine, disk full, … (exit 5)

Facts are attributes; the sentence for people is built here, in one place. A broken invariant of
our own is an `AssertionError`, never one of these.
"""

from headrace.errors._errors import (
    Busy,
    Conflict,
    HeadraceError,
    InvalidConfig,
    InvalidDefinition,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Problem,
    Unavailable,
    Unreachable,
    from_wire,
)

__all__ = [
    "Busy",
    "Conflict",
    "HeadraceError",
    "InvalidConfig",
    "InvalidDefinition",
    "InvalidRequest",
    "LimitExceeded",
    "NotFound",
    "Problem",
    "Unavailable",
    "Unreachable",
    "from_wire",
]
