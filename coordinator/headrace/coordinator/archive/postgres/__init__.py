"""The archive in a PostgreSQL database, for any number of coordinators.

`archive` keeps the promises, `listing` reads pages, `migrations` makes and changes the tables, and
`access` is the pool: connections, timeouts, and the server's errors as ours.
"""

from headrace.coordinator.archive.postgres.access import Access, NotAllowed
from headrace.coordinator.archive.postgres.archive import PostgresArchive
from headrace.coordinator.archive.postgres.migrations import (
    MIGRATIONS,
    Migration,
    NewerSchema,
    Standing,
    bring_up,
    finish,
    look,
)

__all__ = [
    "MIGRATIONS",
    "Access",
    "Migration",
    "NewerSchema",
    "NotAllowed",
    "PostgresArchive",
    "Standing",
    "bring_up",
    "finish",
    "look",
]
