"""Cached results: asked for by steps, offered by steps that have completed, kept at home.

A step that finds none runs, as all do that ask at the same time. What is kept is a copy: neither
the run that it is of, nor its end, matters to who uses it.
"""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.kept_results import RESULT_BYTES_MAX, KeptResult
from headrace.coordinator.core.state import UNREADABLE
from headrace.coordinator.core.tick import Tick
from headrace.events import CacheAsked, CacheStored, KeyGranted, StepCached
from headrace.messages import ResultExtra
from headrace.payloads import BLOB_KEY, reference


def asked(tick: Tick, key: str, holder: str, shard: int) -> None:
    """A step wants to know whether its result is kept here."""
    tick.emit_shard(CacheAsked(key, holder, shard))


def answered(
    tick: Tick,
    key: str,
    holder: str,
    output: bytes | None = None,
    run_key: str = "",
    path: str = "",
    time_ms: int = 0,
    env: dict[str, str] | None = None,
    added: list[str] | None = None,
) -> None:
    """The home shard has the result (*output*), or has none: then the step goes on."""
    name, _, rest = holder.partition("#")
    run = tick.state.runs.get(name)
    if run is None or run.quarantined or status.is_final(run.state):
        return
    instance = run.instance(int(rest.partition(".")[0]))
    gate = run.gates.get(instance)
    if gate is None or gate.holder != holder:
        return
    if output is None:
        tick.emit(run, KeyGranted(instance, key, "cache"))
        return
    source = run_key.partition("/")[2]
    extra = ResultExtra(env=env or {}, path=added or []) if env or added else None
    tick.emit(run, StepCached(instance, msgspec.Raw(output), source, path, time_ms, extra))


def offered(
    tick: Tick,
    key: str,
    source: str,
    output: bytes,
    path: str,
    time_ms: int,
    ttl_ms: int,
    env: dict[str, str],
    added: list[str],
) -> None:
    """A step has completed whose result was not kept: keep it, if it can be."""
    kept, now_ms = tick.state.kept, tick.state.now_ms
    before = kept.by_key.get(key)
    if before is not None and before.time_ms >= time_ms:
        # Sent twice, or another one was faster.
        return
    extra = ResultExtra(env=env, path=added) if env or added else None
    until_ms = time_ms + ttl_ms if ttl_ms else 0
    result = KeptResult(output, source.partition("#")[0], path, time_ms, until_ms, extra)
    if result.size > RESULT_BYTES_MAX or result.is_over(now_ms) or _lies_elsewhere(output):
        return
    evicted = kept.in_the_way(key, result, now_ms)
    event = CacheStored(key, output, result.run, path, time_ms, until_ms, extra, evicted)
    tick.emit_shard(event)


def _lies_elsewhere(output: bytes) -> bool:
    """Tell whether a part of a result lies in the object store, and so goes with its run."""
    if BLOB_KEY not in output:
        return False
    try:
        return _refers(msgspec.msgpack.decode(output))
    except UNREADABLE:
        return True


def _refers(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_refers, value))
    if isinstance(value, dict):
        return reference(value) is not None or any(map(_refers, value.values()))
    return False
