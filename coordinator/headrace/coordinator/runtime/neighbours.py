"""Who coordinates on this broker already, asked before this process takes part.

A SQLite archive is one coordinator's file. What ends while another coordinator leads the shard is
written to that one's archive, and nobody finds it again once that one is gone: so a coordinator
with such a file shares its broker with no other. For the same reason all have one kind of archive.
Two that start within the same half second do not
hear each other: this is for mistakes of configuration, not a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from headrace.bus import Bus, Message
from headrace.coordinator.control import CoordinatorHeartbeat, decode_heartbeat
from headrace.errors import Unavailable
from headrace.messages import UNREADABLE, subjects

LISTEN_S = 0.5
"""More than three heartbeats of a coordinator."""


class Neighbours:
    """Listens from now on; ask `check` once."""

    def __init__(self, bus: Bus) -> None:
        self._heard: dict[tuple[str, str], CoordinatorHeartbeat] = {}
        self._until_s = asyncio.get_running_loop().time() + LISTEN_S
        self._subscription = bus.subscribe(subjects.coordinator_heartbeat("*"), self._hear)

    async def check(self, *, archive: str) -> None:
        """Return when nobody is there whom we may not join.

        Raises `Unavailable`, and not a refusal for ever: one that was killed may go any moment.
        """
        try:
            await asyncio.sleep(max(self._until_s - asyncio.get_running_loop().time(), 0.0))
        finally:
            self._subscription.close()
        refuse(self._heard.values(), archive=archive)

    def _hear(self, message: Message) -> None:
        try:
            beat = decode_heartbeat(message.data)
        except UNREADABLE:
            return  # the control plane says so, soon
        self._heard[beat.id, beat.incarnation] = beat


def refuse(heard: Iterable[CoordinatorHeartbeat], *, archive: str) -> None:
    """Raise `Unavailable` if one of those *heard* or we must be alone, or archives differ."""
    living = sorted((beat for beat in heard if not beat.stopped), key=lambda beat: beat.id)
    for beat in living:
        if archive == "sqlite":
            raise Unavailable(
                f"coordinator {beat.id!r} works on this broker already, and a SQLite archive is "
                'for one coordinator: stop it first, or use archive = "jetstream" in all of them',
            )
        if beat.own_archive:
            raise Unavailable(
                f"coordinator {beat.id!r} works on this broker with a SQLite archive, which is "
                'for one coordinator: stop it, or start it again with archive = "jetstream"',
            )
        if beat.archive not in ("", archive):
            raise Unavailable(
                f"coordinator {beat.id!r} works on this broker with archive = {beat.archive!r}, "
                f"and this one is configured with {archive!r}: all must have the same one, or "
                "closed runs are in two places",
            )
