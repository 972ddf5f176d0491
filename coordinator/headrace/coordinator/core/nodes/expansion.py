"""From the items of a loop to its iterations: all of them at once, in as few events as it takes."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core.nodes.fields import deadline_ms, evaluated
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import InvalidRequest
from headrace.events import Expanded
from headrace.expressions import to_number, truthy
from headrace.plan import ITEMS_MAX, Loop

_encode = msgspec.msgpack.Encoder().encode
EXPANSION_PART = 2_000
"""Items in one `Expanded` event, so that no event outgrows an append."""
EXPANSION_PART_BYTES = 256 * 1024
EXPANSION_BYTES_MAX = 16 * 1024 * 1024
"""All items of one loop together."""


def expand(
    tick: Tick, run: Run, instance: int, loop: Loop, items: list[Any], labels: list[str] | None
) -> None:
    """Begin a loop over *items*. Raises `HeadraceError`."""
    size = run.program.nodes[run.locate(instance)[0] + 1].size
    if len(run.status) + len(items) * size > tick.limits.nodes:
        raise InvalidRequest(
            f"{len(items)} iterations of {size} nodes: a run has at most {tick.limits.nodes}"
        )
    window = _window(evaluated(run, instance, loop.max_parallel))
    needed = -1 if loop.join.kind == "all" else loop.join.needed(len(items))
    fail_fast = truthy(evaluated(run, instance, loop.fail_fast))
    due_ms = deadline_ms(run, instance, loop.timeout_ms, tick.state.now_ms)
    for first, last in _expansion_parts(items):
        tick.emit(
            run,
            Expanded(
                instance,
                first,
                items[first:last],
                len(items),
                labels[first:last] if labels is not None else None,
                window,
                fail_fast,
                needed,
                due_ms,
            ),
        )
    if due_ms:
        tick.timers.push(due_ms, run.key, instance)


def _window(value: Any) -> int:
    """Return `max-parallel` as a number; 0: no limit."""
    if value is None or value == "":
        return 0
    number = to_number(value)
    if not 1 <= number <= ITEMS_MAX or number != int(number):
        raise InvalidRequest(f"max-parallel is a whole number from 1 on, not {value!r:.80}")
    return int(number)


def _expansion_parts(items: list[Any]) -> list[tuple[int, int]]:
    """Return [first, last) of each `Expanded` event, so that no event outgrows an append."""
    parts: list[tuple[int, int]] = []
    first = size = total = 0
    for index, item in enumerate(items):
        length = len(_encode(item))
        total += length
        if index > first and (
            size + length > EXPANSION_PART_BYTES or index - first >= EXPANSION_PART
        ):
            parts.append((first, index))
            first, size = index, 0
        size += length
    if total > EXPANSION_BYTES_MAX:
        raise InvalidRequest(f"items of {total} bytes; the limit is {EXPANSION_BYTES_MAX}")
    parts.append((first, len(items)))
    return parts
