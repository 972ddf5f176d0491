"""What stands before a node: `lock`, `rate-limit` and `cache`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.language._contexts import RUN
from headrace.language._reader import Reader
from headrace.language._scope import Scope
from headrace.language._yaml import Scalar, Tree
from headrace.plan import Cache, Lock, RateLimit

LOCK_KEYS = ("name", "ttl", "timeout")
RATE_LIMIT_KEYS = ("key", "limit", "per", "timeout")
CACHE_KEYS = ("key", "ttl")
GATE_KEYS = ("lock", "rate-limit")
LIMIT_MAX = 1_000_000
PERIOD_MS_MAX = 366 * 86_400_000


def read_gates(
    reader: Reader, entries: Mapping[str, Tree], what: str, scope: Scope
) -> dict[str, Any]:
    """Return the fields `lock` and `rate_limit` of a task or group, where they are given."""
    fields: dict[str, Any] = {}
    lock = read_lock(reader, entries.get("lock"), f"{what}.lock", scope)
    if lock is not None:
        fields["lock"] = lock
    rate = read_rate_limit(reader, entries.get("rate-limit"), f"{what}.rate-limit", scope)
    if rate is not None:
        fields["rate_limit"] = rate
    return fields


def read_cache(
    reader: Reader, entries: Mapping[str, Tree], what: str, scope: Scope
) -> dict[str, Any]:
    """Return the field `cache` of a task, where it is given: a key alone, or a mapping."""
    node, what = entries.get("cache"), f"{what}.cache"
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return {}
    found = {"key": node} if isinstance(node, Scalar) else reader.mapping(node, what, CACHE_KEYS)
    if "effect" in entries:
        hint = "what takes effect at most once is not to be taken from another run"
        reader.report.add(f"{what} does not go with 'effect'", node, hint)
    written = found.get("key")
    if isinstance(written, Scalar) and "hashfiles" in written.text.lower():
        hint = "let a step before it write the hash to $GITHUB_OUTPUT, and use that output"
        reader.report.add(
            f"'hashFiles' is not available in {what}: no worker has it yet", node, hint
        )
        return {}
    key = reader.text(written, f"{what}.key", scope)
    if not key:
        reader.report.add(f"{what} needs a 'key'", node)
        return {}
    ttl_ms = reader.duration(found.get("ttl"), f"{what}.ttl")
    return {"cache": Cache(key=key, ttl_ms=ttl_ms or 0)}


def read_lock(reader: Reader, node: Tree | None, what: str, scope: Scope) -> Lock | None:
    """Return a lock: its name alone, or a mapping; None if absent."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    if isinstance(node, Scalar):
        return Lock(name=reader.text(node, what, scope))
    entries = reader.mapping(node, what, LOCK_KEYS)
    name = reader.text(entries.get("name"), f"{what}.name", scope)
    if not name:
        reader.report.add(f"{what} needs a 'name'", node)
        return None
    return Lock(
        name=name,
        ttl_ms=reader.duration(entries.get("ttl"), f"{what}.ttl") or 0,
        timeout_ms=reader.duration(entries.get("timeout"), f"{what}.timeout") or 0,
    )


def read_rate_limit(reader: Reader, node: Tree | None, what: str, scope: Scope) -> RateLimit | None:
    """Return a rate limit; None if absent, or wrong."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    entries = reader.mapping(node, what, RATE_LIMIT_KEYS)
    if not entries:
        return None
    key = reader.text(entries.get("key"), f"{what}.key", scope)
    limit = reader.integer(entries.get("limit"), f"{what}.limit", 1, LIMIT_MAX)
    per_ms = reader.duration(entries.get("per"), f"{what}.per")
    for name, found in (("key", key), ("limit", limit), ("per", per_ms)):
        if not found and name not in entries:
            hint = "write {key: api, limit: 10, per: 1m}"
            reader.report.add(f"{what} needs '{name}'", node, hint)
    if not key or not limit or not per_ms:
        return None
    if per_ms > PERIOD_MS_MAX:
        reader.report.add(f"{what}.per is at most 366 days", entries["per"])
        return None
    timeout_ms = reader.duration(entries.get("timeout"), f"{what}.timeout") or 0
    return RateLimit(key=key, limit=limit, per_ms=per_ms, timeout_ms=timeout_ms)


def read_run_rate(reader: Reader, node: Tree | None, scope: Scope) -> RateLimit | None:
    """Return the rate limit of a workflow's starts; None if absent."""
    found = read_rate_limit(reader, node, "rate-limit", scope.at(RUN))
    if found is not None and found.timeout_ms:
        hint = "a run waits without an end; cancel it, or give it 'concurrency:'"
        reader.report.add("rate-limit of a workflow has no 'timeout'", node, hint)
    return found
