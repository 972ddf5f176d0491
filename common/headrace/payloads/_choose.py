"""Which values of a map go to the store."""

from __future__ import annotations

from collections.abc import Mapping


def oversized(
    sizes: Mapping[str, int], *, inline_bytes: int, together_bytes: int, reference_bytes: int = 256
) -> list[str]:
    """Return the names of the values that go to the store.

    Every value over *inline_bytes* goes; of the others the largest, until the rest takes at most
    *together_bytes* with a reference of *reference_bytes* for each that went. Values no larger
    than a reference stay: when there are too many of those, the rest is still too large.
    """
    chosen = [name for name, size in sizes.items() if size > inline_bytes]
    left = sum(sizes.values()) - sum(sizes[name] - reference_bytes for name in chosen)
    gone = set(chosen)
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if left <= together_bytes or sizes[name] <= reference_bytes:
            break
        if name not in gone:
            chosen.append(name)
            left -= sizes[name] - reference_bytes
    return chosen
