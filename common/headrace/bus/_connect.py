"""Makes a `Bus`."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.bus._bus import API_TIMEOUT_S, Bus
from headrace.config import shown_address
from headrace.errors import InvalidConfig, Unreachable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ADDRESS = re.compile(
    r"([a-z]+://)?([^\s/?#\[\]@]*@)?(\[[0-9A-Fa-f:.%]+\]|[^\s/:@?#\[\]]+)(:\d{1,5})?/?"
)


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Waits of a connection, in seconds."""

    connect_s: float = 2.0
    """For one server to accept a connection."""
    request_s: float = API_TIMEOUT_S
    """For an answer of the broker's own API."""
    ping_s: float = 5.0
    """Between pings; two unanswered ones make a connection dead: after 10 to 15 s, against
    minutes by default."""
    reconnect_s: float = 0.05
    """Before a server is tried again."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """How to log in; files are read again at each connection, but for the certificates."""

    user: str = ""
    password: str = ""
    token: str = ""
    creds_file: str = ""
    ca_file: str = ""
    """Trust this authority for ``tls://`` servers, not the system's."""
    cert_file: str = ""
    """Our certificate, for mutual TLS, and in `key_file` its key."""
    key_file: str = ""
    hostname: str = ""
    """Name to expect in the server's certificate, when it differs from the address."""


async def connect(
    servers: str | Sequence[str],
    *,
    name: str,
    wait_s: float | None = 5.0,
    credentials: Credentials | None = None,
    timings: Timings | None = None,
) -> Bus:
    """Connect to one of *servers* (``nats://host:port``) and return the bus.

    Raises `Unreachable`, naming the addresses, when none answers within *wait_s*; None tries for
    ever and says once in the log that it does. Later losses of the connection are mended for ever.
    Raises `InvalidConfig` for an address of another kind and for certificates that cannot be read.
    """
    addresses = [servers] if isinstance(servers, str) else list(servers)
    for address in addresses:
        _check(address)
    timings = timings or Timings()
    login = _login(credentials)
    bus = Bus(addresses, name, api_timeout_s=timings.request_s)
    client = bus._client
    first_error: list[str] = []

    async def note(error: Exception) -> None:
        text = str(error) or type(error).__name__
        if not first_error and wait_s is None and not client.is_closed:
            log.warning(
                "broker does not answer, trying on",
                extra={"bus": name, "servers": bus._address(), "error": text},
            )
        first_error[:] = [text]
        await bus._trouble(error)

    try:
        async with asyncio.timeout(wait_s):
            await client.connect(
                servers=addresses,
                name=name,
                error_cb=note,
                reconnected_cb=bus._reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=FIRST_PAUSE_S,  # type: ignore[arg-type]
                connect_timeout=timings.connect_s,  # type: ignore[arg-type]
                ping_interval=timings.ping_s,  # type: ignore[arg-type]
                pending_size=0,  # nothing is buffered while disconnected
                **login,
            )
    except TimeoutError:
        await bus.close()
        reason = f": {first_error[0]}" if first_error else ""
        raise Unreachable(f"no broker at {bus._address()} within {wait_s:.3g} s{reason}") from None
    except BaseException:
        await bus.close()
        raise
    client.options["reconnect_time_wait"] = timings.reconnect_s
    bus._started()
    return bus


def _check(address: str) -> None:
    """Raise `InvalidConfig`, which shows nothing that may be a login, for what is no address."""
    scheme = _SCHEME.match(address)
    if scheme is not None and scheme[1] not in ("nats", "tls"):
        reason = f"{shown_address(address)}: only nats:// and tls:// are known"
    elif _ADDRESS.fullmatch(address) is None:
        reason = f"{shown_address(address)}: nats://host:port is expected"
        if "@" in address:
            reason += " (a login with / ? # [ ] or @ in it does not fit into an address)"
    else:
        return
    raise InvalidConfig("broker.servers", reason)


def _login(credentials: Credentials | None) -> dict[str, Any]:
    if credentials is None:
        return {}
    options: dict[str, Any] = {}
    if credentials.user:
        options["user"], options["password"] = credentials.user, credentials.password
    if credentials.token:
        options["token"] = credentials.token
    if credentials.creds_file:
        options["user_credentials"] = credentials.creds_file
    if credentials.ca_file or credentials.cert_file or credentials.hostname:
        options["tls"] = _tls(credentials)
    if credentials.hostname:
        options["tls_hostname"] = credentials.hostname
    return options


def _tls(credentials: Credentials) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=credentials.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfig("broker.tls_ca_file", str(error)) from error
    if credentials.cert_file:
        try:
            context.load_cert_chain(credentials.cert_file, credentials.key_file or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfig("broker.tls_cert_file", str(error)) from error
    return context
