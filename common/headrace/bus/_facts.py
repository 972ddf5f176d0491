"""What a server tells about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

MONITOR_TIMEOUT_S = 2.0
_ANSWER_BYTES_MAX = 1_000_000


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of the server that we are connected to."""

    name: str
    version: str
    cluster: str = ""
    domain: str = ""
    jetstream: bool = False
    max_payload_bytes: int = 0
    sync: Literal["always", "periodic", "unknown"] = "unknown"
    """Whether JetStream acknowledges after the fsync. Clients are not told: only the monitoring
    port is, so without its address this is unknown."""
    sync_interval_ms: int = 0
    """With `periodic`: up to so much acknowledged data can be lost with the power."""


async def server_facts(info: Mapping[str, Any], monitor: str) -> ServerFacts:
    """Return the facts in the server's INFO, with those of its monitoring port when it answers."""
    facts = ServerFacts(
        name=str(info.get("server_name", "")),
        version=str(info.get("version", "")),
        cluster=str(info.get("cluster", "")),
        domain=str(info.get("domain", "")),
        jetstream=bool(info.get("jetstream", False)),
        max_payload_bytes=int(info.get("max_payload", 0)),
    )
    if not monitor:
        return facts
    try:
        # Not /varz: whoever asks for that before JetStream is up leaves it without this for ever.
        answer = await monitor_get(monitor, "/jsz")
        config = msgspec.json.decode(answer, type=_JetStream).config
    except (OSError, TimeoutError, ValueError):
        return facts
    if config is None:
        return facts
    interval_ms = config.sync_interval // 1_000_000
    if config.sync_always:
        return msgspec.structs.replace(facts, sync="always")
    return msgspec.structs.replace(facts, sync="periodic", sync_interval_ms=interval_ms)


async def monitor_get(monitor: str, path: str) -> bytes:
    """Return the body of a 200 answer of a server's monitoring port.

    Raises `OSError`, `TimeoutError`, or `ValueError` for any other answer.
    """
    parts = urlsplit(monitor)
    async with asyncio.timeout(MONITOR_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            # HTTP/1.0: the answer ends with the connection, so no chunks to put together.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
            answer = await reader.read(_ANSWER_BYTES_MAX)
            while chunk := await reader.read(_ANSWER_BYTES_MAX):
                answer += chunk
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ValueError(f"{path}: {head[:100]!r}")
    return body


class _Config(msgspec.Struct):
    sync_interval: int = 0
    sync_always: bool = False


class _JetStream(msgspec.Struct):
    config: _Config | None = None
