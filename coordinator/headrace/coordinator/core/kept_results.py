"""Results of steps that are kept for others, in the home shards of their keys."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from headrace.messages import ResultExtra

RESULTS_MAX: Final = 10_000
"""Of one shard."""
BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one shard's: they are part of every snapshot."""
RESULT_BYTES_MAX: Final = 64 * 1024
"""A larger one is not kept."""


class KeptResult(NamedTuple):
    """One result."""

    output: bytes
    """A msgpack map."""
    run: str
    """``<namespace>/<run id>`` that it is of."""
    path: str
    time_ms: int
    until_ms: int
    """When it is forgotten; 0: when there is no room."""
    extra: ResultExtra | None = None
    """What the step has added to `env` and `PATH`."""

    @property
    def size(self) -> int:
        """Return about how many bytes it takes."""
        said = self.extra
        added = sum(len(k) + len(v) for k, v in said.env.items()) if said is not None else 0
        return len(self.output) + added + 200

    def is_over(self, now_ms: int) -> bool:
        """Tell whether its time is over."""
        return 0 < self.until_ms <= now_ms


class KeptResults:
    """Those of one shard, the oldest first."""

    __slots__ = ("by_key", "size")

    def __init__(self) -> None:
        self.by_key: dict[str, KeptResult] = {}
        self.size = 0

    def get(self, key: str, now_ms: int) -> KeptResult | None:
        """Return what is kept under a key, unless its time is over."""
        found = self.by_key.get(key)
        return None if found is None or found.is_over(now_ms) else found

    def put(self, key: str, result: KeptResult) -> None:
        """Keep a result, in the place of one that is there."""
        self.drop(key)
        self.by_key[key] = result
        self.size += result.size

    def drop(self, key: str) -> None:
        """Forget a result."""
        found = self.by_key.pop(key, None)
        if found is not None:
            self.size -= found.size

    def in_the_way(self, key: str, result: KeptResult, now_ms: int) -> list[str]:
        """Return what is to be forgotten so that there is room for one more: first what is over."""
        count, size = len(self.by_key) + 1, self.size + result.size
        if count <= RESULTS_MAX and size <= BYTES_MAX:
            return []
        gone: list[str] = []
        old = [name for name, found in self.by_key.items() if found.is_over(now_ms)]
        over = set(old)
        old += [name for name in self.by_key if name not in over]
        for name in old:
            if count <= RESULTS_MAX and size <= BYTES_MAX:
                break
            if name != key:
                gone.append(name)
                count, size = count - 1, size - self.by_key[name].size
        return gone

    def image(self) -> list[tuple[str, list[Any]]]:
        """Return them as plain data, in their order."""
        return [(key, list(found)) for key, found in self.by_key.items()]

    def restore(self, image: list[tuple[str, list[Any]]]) -> None:
        """Take what `image` has given."""
        for key, (*facts, extra) in image:
            said = ResultExtra(**extra) if isinstance(extra, dict) else extra
            self.put(key, KeptResult._make([*facts, said]))
