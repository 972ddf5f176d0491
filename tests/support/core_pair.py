"""Two shards that talk through their outboxes over a wire that delays, doubles and reorders."""

from __future__ import annotations

from typing import NamedTuple

from headrace.coordinator.core import OutMessage, status
from support.corekit import NAMESPACE, Kit


class Letter(NamedTuple):
    """A message, or the answer that it is in the target's log."""

    source: int
    target: int
    message: str
    content: OutMessage | None


class Pair:
    """Shards 1 and 2; a key lives in the shard that its last character names."""

    def __init__(self) -> None:
        self.kits = {number: Kit(number, home=self.home) for number in (1, 2)}
        self.wire: list[Letter] = []

    @staticmethod
    def home(key: str) -> int:
        """Return the shard where a key lives."""
        return 2 if key.endswith("2") else 1

    def collect(self) -> None:
        """Put what the owners have handed out on the wire."""
        for number, kit in self.kits.items():
            for sent in kit.outgoing:
                assert sent.shard != number
                self.wire.append(Letter(number, sent.shard, sent.message, sent.content))
            kit.outgoing.clear()

    def deliver(self, index: int, *, keep: bool = False, answer: bool = True) -> None:
        """Deliver one letter; *keep*: another copy stays on the wire; *answer*: it gets through."""
        letter = self.wire[index]
        if not keep:
            del self.wire[index]
        kit = self.kits[letter.target]
        content = letter.content
        if content is None:
            kit.tick(lambda m: m.clear_outbox([letter.message]))
        else:
            kit.tick(lambda m: m.deliver(letter.message, content))
            if answer:
                self.wire.append(Letter(letter.target, letter.source, letter.message, None))
        self.collect()

    def resend(self) -> None:
        """The owners send again what nobody has answered."""
        for kit in self.kits.values():
            kit.tick(lambda m: m.posted.clear())
        self.collect()

    def kill(self, number: int) -> None:
        """The owner of a shard dies; what it had sent may still be on the wire."""
        self.kits[number].kill()
        self.collect()

    def calm(self) -> None:
        """Deliver everything until nothing is left to say."""
        for _ in range(500):
            self.collect()
            if not self.wire:
                if not any(kit.machine.state.outbox for kit in self.kits.values()):
                    return
                self.resend()
                if not self.wire:
                    break
            while self.wire:
                self.deliver(0)
        raise AssertionError("the shards do not come to rest")

    # -- what must hold -------------------------------------------------------------------------

    def holders(self, key: str) -> set[str]:
        """Return who holds a key, as its home shard sees it."""
        record = self.kits[self.home(key)].machine.state.keys.get(f"{NAMESPACE}/{key}")
        return set(record.holders) if record is not None else set()

    def running(self, key: str) -> set[str]:
        """Return the holders of a key that really go on (runs, and jobs of runs)."""
        found = set()
        full = f"{NAMESPACE}/{key}"
        for kit in self.kits.values():
            for run in kit.machine.state.runs.values():
                if run.state == status.RUNNING and run.key_name == full:
                    found.add(run.key)
                for instance, (name, holder) in run.node_keys.items():
                    if name == full and run.status[instance] == status.RUNNING:
                        found.add(holder)
        return found

    def check(self, key: str, limit: int) -> None:
        """Who goes on holds the key, and no more than *limit* do."""
        holders = self.holders(key)
        assert len(holders) <= limit
        assert self.running(key) <= holders, "something goes on that does not hold its key"
