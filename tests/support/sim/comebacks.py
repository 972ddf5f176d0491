"""The rule of owners that hear nothing of the control plane: they come back ever less often.

Judged by the records of ownership alone, in worlds where nothing else goes wrong: there nothing
but its own patience lets a coordinator take a shard again that another one has taken from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from support.sim.world import World

FIRST_S = 1.0
"""So long who was fenced waits for a newer view at least; each next time twice as long."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Comebacks:
    """One shard's."""

    def __init__(self, world: World, shard: int) -> None:
        self._world, self._shard = world, shard
        self._owner = ""
        """The life that took it last."""
        self._lost: dict[str, float] = {}
        """Life -> when it first lost the shard, of those that have been deaf since."""
        self._times: dict[str, int] = {}
        """How often each of them has come back."""

    def taken(self, data: bytes) -> None:
        """A record of ownership is stored."""
        life, before = _decode(data)["owner"].rpartition(".")[0], self._owner
        self._owner = life
        if life == before:
            return
        deaf, now_s = self._world.net.deaf, self._world.loop.now_s
        for one in [one for one in self._lost if not deaf(one.partition(".")[0])]:
            del self._lost[one], self._times[one]
        if before and deaf(before.partition(".")[0]):
            self._lost.setdefault(before, now_s)
            self._times.setdefault(before, 0)
        if life in self._lost:
            self._world.tally["came-back"] += 1
            self._comes_back(life, now_s - self._lost[life])

    def _comes_back(self, life: str, since_s: float) -> None:
        self._times[life] += 1
        least_s = FIRST_S * (2 ** self._times[life] - 1)
        if self._world.chaos.control_alone and since_s < least_s:
            self._world.violation(
                f"shard {self._shard}: {life}, which hears nothing of the control plane, takes the "
                f"shard back {self._times[life]} times in {since_s:.1f} s"
            )
