"""A server process's connection, as its configuration says."""

from __future__ import annotations

from pathlib import Path

from headrace.bus._bus import Bus
from headrace.bus._connect import Credentials, Timings, connect
from headrace.config import Broker
from headrace.errors import InvalidConfig


async def dial(broker: Broker, *, name: str, wait_s: float | None = None) -> Bus:
    """Connect as section `broker` says; the rest is as for `connect`, which tries for ever here."""
    return await connect(
        list(broker.servers),
        name=name,
        wait_s=wait_s,
        credentials=credentials(broker),
        timings=timings(broker),
    )


def credentials(broker: Broker) -> Credentials:
    """Return how to log in. Raises `InvalidConfig` when a password's file cannot be read."""
    return Credentials(
        user=broker.user,
        password=broker.password or _first_line("broker.password_file", broker.password_file),
        token=broker.token or _first_line("broker.token_file", broker.token_file),
        creds_file=broker.creds_file,
        nkey_file=broker.nkey_file,
        ca_file=broker.tls_ca_file,
        cert_file=broker.tls_cert_file,
        key_file=broker.tls_key_file,
        hostname=broker.tls_hostname,
    )


def _first_line(key: str, path: str) -> str:
    if not path:
        return ""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(key, str(error)) from error
    return lines[0] if lines else ""


def timings(broker: Broker) -> Timings:
    """Return the waits."""
    return Timings(
        connect_s=broker.connect_timeout_ms / 1_000,
        request_s=broker.request_timeout_ms / 1_000,
        ping_s=broker.ping_interval_ms / 1_000,
        reconnect_s=broker.reconnect_wait_ms / 1_000,
    )
