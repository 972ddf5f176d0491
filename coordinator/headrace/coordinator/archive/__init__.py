"""Closed runs: complete histories, listing and search, retention.

Here is the contract; the implementations are in `memory`, `sqlite`, `jetstream` and `postgres`,
imported by name, so that nobody pays for one that is not used.
"""

from headrace.coordinator.archive.store import Archive, ArchivedRun, RunSummary, Segment

__all__ = ["Archive", "ArchivedRun", "RunSummary", "Segment"]
