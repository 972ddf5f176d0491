"""Do all that follow a log agree? State hashes, by position of the log, of whoever had a state.

Every owner at its takeover (folded from a snapshot and the log behind it, or kept warm by a
standby), every registered snapshot, owners and standbys at the end, and every stored snapshot with
the log behind it folded anew must be what a fresh fold of the whole log gives. The core folds;
this only compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.coordinator.core import (
    BrokenLog,
    Folder,
    Machine,
    ShardState,
    decode_state,
    state_hash,
)
from headrace.errors import HeadraceError
from support.sim.loop import current_process
from support.sim.plans import HANDLER

if TYPE_CHECKING:
    from support.sim.world import World


class Agreement:
    """Collects claims while a world lives; `check` judges them at its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._claims: dict[int, dict[int, list[tuple[str, str]]]] = {}

    def machine(self) -> type[Machine]:
        """Return the class of owners' machines: what one has folded when it begins is a claim."""
        agreement = self

        class Claiming(Machine):
            """An owner's machine."""

            def __init__(self, state: ShardState, **options: Any) -> None:
                process = current_process()
                life = process.name if process is not None else "?"
                agreement._world.led(state.shard, life)
                agreement.claim(state, f"{life}, who took the shard,")
                super().__init__(state, **options)

        return Claiming

    def claim(self, state: ShardState, who: str) -> None:
        """Somebody says that it has folded the log up to where *state* is."""
        self._note(state.shard, state.batch_position, who, state_hash(state))

    def _note(self, shard: int, position: int, who: str, digest: str) -> None:
        claims = self._claims.setdefault(shard, {})
        claims.setdefault(position, []).append((who, digest))

    def check(
        self,
        shard: int,
        entries: list[tuple[int, bytes]],
        registered: dict[int, tuple[str, str]],
        fault: Callable[[str], None],
    ) -> None:
        """Fold a shard's whole log anew, and compare all that was claimed of it.

        *registered*: position → (name, state hash) of the snapshots that the log names.
        """
        world = self._world
        for position, (_, digest) in registered.items():
            self._note(shard, position, "a snapshot", digest)
        for name, state in world.replicas_of(shard):
            self.claim(state, name)
        claims = self._claims.pop(shard, {})
        folder = Folder(ShardState(shard, frozenset({HANDLER})))
        claims.pop(0, None)
        for position, data in entries:
            folder.fold(position, data)
            if folder.state.batch_position != position or position not in claims:
                continue
            digest = state_hash(folder.state)
            for who, claimed in claims.pop(position):
                world.tally["hash-compared"] += 1
                if claimed != digest:
                    fault(f"{who} at position {position} differs from the log")
        for position, who in claims.items():
            fault(f"{who} at position {position}: no such position")
        self._from_snapshots(shard, entries, registered, state_hash(folder.state), fault)

    def _from_snapshots(
        self,
        shard: int,
        entries: list[tuple[int, bytes]],
        registered: dict[int, tuple[str, str]],
        digest: str,
        fault: Callable[[str], None],
    ) -> None:
        """Every registered snapshot that is still stored, and the log behind it, give the same."""
        positions = {name: position for position, (name, _) in registered.items()}
        for name, data in self._world.snapshots.sound(shard):
            if name not in positions:
                continue
            try:
                folder = Folder(decode_state(data, frozenset({HANDLER})))
            except (HeadraceError, LookupError, TypeError, ValueError) as error:
                fault(f"snapshot {name} is registered, and cannot be read: {error!r}")
                continue
            try:
                for position, entry in entries:
                    if position > folder.state.batch_position:
                        folder.fold(position, entry)
            except BrokenLog as error:
                fault(f"snapshot {name} and the log behind it do not fit: {error}")
                continue
            self._world.tally["hash-compared"] += 1
            if state_hash(folder.state) != digest:
                fault(f"snapshot {name} and the log behind it differ from the whole log")
