"""Keys in their home shard, as its log has them: sets of holders, windows of rates, kept results.

The rules: never more holders than the limit; of a rate, in any period begin at most so many, by the
home's own time, and a place is free only when its time is over; tokens of a lock rise; nobody
loses a lock or gives up waiting early; a kept result is one that was recorded, of a step that does
the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.messages import subjects
from headrace.plan import Task
from support.sim.plans import GROUP_KEYS, RUN_KEYS

if TYPE_CHECKING:
    from support.sim.oracle import ShardOracle

_LIMITS = {f"default/{name}": limit for name, limit in (RUN_KEYS | GROUP_KEYS).items()}


def place_of(holder: str) -> tuple[str, int]:
    """Return (run, wire number of the instance, or -1) of a holder's id."""
    name, _, rest = holder.partition("#")
    return name, int(rest.partition(".")[0]) if rest else -1


def limit_of(key: str) -> int:
    """Return how many may hold a key at a time; of a rate: no such number."""
    return 1 if subjects.is_lock(key) else _LIMITS[key]


class Rate:
    """What is known of one rate limit."""

    def __init__(self) -> None:
        self.limit = self.per_ms = 0
        self.cooling: list[int] = []
        """When the places of those that have begun are free."""


class Homes:
    """Events 110 to 115 and 150 to 154 of one shard."""

    def __init__(self, shard: ShardOracle) -> None:
        self._shard = shard
        self.holders: dict[str, dict[str, int]] = {}
        """Key -> holder -> when it expires; 0: never."""
        self.waiters: dict[str, dict[str, list[Any]]] = {}
        self.grants: dict[tuple[str, str], tuple[int, int]] = {}
        """(key, holder) -> (token, until) of all that there ever were."""
        self.taken: set[str] = set()
        """Locks that somebody has lost."""
        self.rates: dict[str, Rate] = {}
        self.kept: dict[str, tuple[Any, str, str, int, int]] = {}
        self.stored: set[tuple[str, str]] = set()
        """(run, path) of all that was ever kept."""
        self.answers: dict[tuple[str, str], list[tuple[Any, str, str, int] | None]] = {}
        """(key, who asked) -> what was kept then."""
        self._tokens: dict[str, int] = {}

    def apply(self, event: list[Any], time_ms: int) -> None:
        """Apply one event, if it is about a key."""
        handler = _HANDLERS.get(event[0])
        if handler is not None:
            handler(self, event, time_ms)

    def _waited(self, event: list[Any], time_ms: int) -> None:
        key = event[1]
        if event[2] in self.waiters.get(key, ()) or event[2] in self.holders.get(key, ()):
            self._shard.fault(f"{key}: {event[2]} waits twice")
        self.waiters.setdefault(key, {})[event[2]] = event
        if event[7]:
            rate = self.rates.setdefault(key, Rate())
            rate.limit, rate.per_ms = event[3], event[7]

    def _granted(self, event: list[Any], time_ms: int) -> None:
        key, holder, token, until_ms = event[1], event[2], event[4], event[5]
        fault = self._shard.fault
        holders = self.holders.setdefault(key, {})
        waited = self.waiters.get(key, {}).pop(holder, None)
        if waited is None:
            fault(f"{key} is granted to {holder}, who does not wait")
            return
        rate = self.rates.get(key)
        if rate is not None:
            cooling = sum(free_ms > time_ms for free_ms in rate.cooling)
            if len(holders) + cooling >= rate.limit:
                fault(
                    f"{key} is granted to {holder}: {len(holders)} may begin and {cooling} have "
                    f"begun, of {rate.limit} per {rate.per_ms} ms"
                )
        elif len(holders) >= limit_of(key):
            fault(f"{key} is granted to {holder}, and {list(holders)} hold it")
        if subjects.is_lock(key):
            if token <= self._tokens.get(key, 0):
                fault(f"{key}: token {token} after {self._tokens[key]}")
            self._tokens[key] = token
            if until_ms != (time_ms + waited[6] if waited[6] else 0):
                fault(f"{key}: {holder} has it until {until_ms}, for {waited[6]} ms")
        holders[holder] = until_ms
        self.grants[key, holder] = (token, until_ms)

    def _released(self, event: list[Any], time_ms: int) -> None:
        key, holder, reason = event[1], event[2], event[3]
        waited = self.waiters.get(key, {}).pop(holder, None)
        if reason == "timeout" and (waited is None or not 0 < waited[8] <= time_ms):
            self._shard.fault(f"{key}: {holder} gives up too early: {waited}")
        until_ms = self.holders.get(key, {}).pop(holder, None)
        if until_ms is None:
            return
        if reason == "expired" and not 0 < until_ms <= time_ms:
            self._shard.fault(f"{key}: {holder} loses it {until_ms - time_ms} ms early")
        if reason == "started":
            rate = self.rates[key]
            rate.cooling = [free for free in rate.cooling if free > time_ms]
            rate.cooling.append(time_ms + rate.per_ms)
        elif reason in ("expired", "forced"):
            self.taken.add(key)
            self._shard.robbed(key, place_of(holder))
        elif key not in self.rates and not holder.startswith("@"):
            self._shard.freed(key, holder)

    def _audited(self, event: list[Any], time_ms: int) -> None:
        for holder in event[2]:
            if holder not in self.holders.get(event[1], {}):
                self._shard.fault(f"{event[1]}: {holder} is asked about, and does not hold it")

    def _cooled(self, event: list[Any], time_ms: int) -> None:
        for key in event[1]:
            left = [free for free in self.rates[key].cooling if free > time_ms]
            if left or self.holders.get(key) or self.waiters.get(key):
                self._shard.fault(f"{key} is forgotten, and {left} still count")

    def _renewed(self, event: list[Any], time_ms: int) -> None:
        key, holder, until_ms = event[1], event[2], event[3]
        self._shard.seen.add(event[4])
        if holder not in self.holders.get(key, {}):
            self._shard.fault(f"{key} is renewed by {holder}, who does not hold it")
        self.holders[key][holder] = until_ms

    # -- kept results --------------------------------------------------------------------------

    def _asked(self, event: list[Any], time_ms: int) -> None:
        key, holder = event[1], event[2]
        kept = self.kept.get(key)
        over = kept is None or 0 < kept[4] <= time_ms
        # Asked for twice, it is answered twice; the first answer that arrives is used.
        answer = None if over or kept is None else kept[:4]
        self.answers.setdefault((key, holder), []).append(answer)

    def _stored(self, event: list[Any], time_ms: int) -> None:
        key, data, name, path, at_ms, until_ms = event[1:7]
        output = self._shard.decoded(data)
        run = self._shard.world.oracle.run(name)
        if run is None or (at_ms, output) not in run.results.get(path, ()):
            self._shard.fault(f"{output} is kept as that of {name} {path}, which has no such")
            return
        node = next(found.node for found in run.instances if found.path == path)
        assert isinstance(node, Task)
        assert node.cache is not None
        if until_ms != (at_ms + node.cache.ttl_ms if node.cache.ttl_ms else 0):
            self._shard.fault(f"{key} is kept until {until_ms}")
        self.stored.add((name, path))
        self.kept[key] = (output, name, path, at_ms, until_ms)

    def _cleared(self, event: list[Any], time_ms: int) -> None:
        self._shard.seen.add(event[2])
        for key in event[1]:
            self.kept.pop(key, None)


_HANDLERS = {
    110: Homes._waited,
    111: Homes._granted,
    112: Homes._released,
    115: Homes._audited,
    150: Homes._cooled,
    151: Homes._renewed,
    152: Homes._asked,
    153: Homes._stored,
    154: Homes._cleared,
}
