"""Makes a `Bus`."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from nats.errors import Error as NatsError

from headrace.bus._bus import API_TIMEOUT_S, Bus
from headrace.config import shown_address
from headrace.errors import InvalidConfig, Unreachable

log = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    return "eof_received() has no effect" not in record.getMessage()


# nats-py changes a connection to TLS by hand; asyncio then complains whenever a server ends one.
logging.getLogger("asyncio").addFilter(_is_news)

FIRST_PAUSE_S = 0.25
PORT_MAX = 65_535
_CREDS_SEED = re.compile(rb"BEGIN USER NKEY SEED-+\s+(SU[A-Z2-7]+)\s")
_NKEY_SEED = re.compile(rb"\A\s*(SU[A-Z2-7]+)\s*\Z")
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
    """JWT and seed, as `nsc` writes them."""
    nkey_file: str = ""
    """The seed of an nkey."""
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
    Raises `InvalidConfig` for an address of another kind and for files that cannot be used.
    """
    addresses = [servers] if isinstance(servers, str) else list(servers)
    for address in addresses:
        _check(address)
    timings = timings or Timings()
    login = _login(credentials)
    bus = Bus(addresses, name, api_timeout_s=timings.request_s)
    client = bus._client
    first_error: list[str] = []
    refusals = 0
    limit = asyncio.timeout(wait_s)

    async def note(error: Exception) -> None:
        text = _words(error)
        if not first_error and wait_s is None and not client.is_closed:
            log.warning(
                "broker does not answer, trying on",
                extra={"bus": name, "servers": bus._address(), "error": text},
            )
        first_error[:] = [text]
        nonlocal refusals
        refusals += isinstance(error, ssl.SSLCertVerificationError) or _is_login_refused(error)
        if wait_s is not None and refusals >= len(addresses):
            # Each has said no: asking again gets the same answer.
            limit.reschedule(asyncio.get_running_loop().time())
        await bus._trouble(error)

    try:
        async with limit:
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
        await _give_up(bus)
        reason = f": {first_error[0]}" if first_error else ""
        if refusals >= len(addresses):
            raise Unreachable(f"no way in at {bus._address()}{reason}") from None
        raise Unreachable(f"no broker at {bus._address()} within {wait_s:.3g} s{reason}") from None
    except BaseException:
        await _give_up(bus)
        raise
    client.options["reconnect_time_wait"] = timings.reconnect_s
    bus._started()
    return bus


async def _give_up(bus: Bus) -> None:
    """Close, and do not leave the socket of the last try to the garbage collector."""
    await bus.close()
    bus._client._abort()
    await asyncio.sleep(0)


def _is_login_refused(error: Exception) -> bool:
    return isinstance(error, NatsError) and "authorization violation" in str(error).lower()


def _words(error: Exception) -> str:
    """Say what is wrong, and what may help."""
    if _is_login_refused(error):
        return "it refuses the login (authorization violation)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted: {error.verify_message}"
            " (which authority signs it is a setting: tls_ca_file, or FLOWCTL_TLS_CA_FILE)"
        )
    return str(error) or type(error).__name__


def _check(address: str) -> None:
    """Raise `InvalidConfig`, which shows nothing that may be a login, for what is no address."""
    scheme = _SCHEME.match(address)
    if scheme is not None and scheme[1] not in ("nats", "tls"):
        reason = f"{shown_address(address)}: only nats:// and tls:// are known"
    elif (parts := _ADDRESS.fullmatch(address)) is None:
        reason = f"{shown_address(address)}: nats://host:port is expected"
        if "@" in address:
            reason += " (a login with / ? # [ ] or @ in it does not fit into an address)"
    elif parts[4] and not 0 < int(parts[4][1:]) <= PORT_MAX:
        reason = f"{shown_address(address)}: a port is from 1 to {PORT_MAX}"
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
        _check_seed("broker.creds_file", credentials.creds_file, _CREDS_SEED)
        options["user_credentials"] = credentials.creds_file
    if credentials.nkey_file:
        _check_seed("broker.nkey_file", credentials.nkey_file, _NKEY_SEED)
        options["nkeys_seed"] = credentials.nkey_file
    if credentials.ca_file or credentials.cert_file or credentials.hostname:
        options["tls"] = _tls(credentials)
    if credentials.hostname:
        options["tls_hostname"] = credentials.hostname
    return options


def _check_seed(key: str, path: str, seed: re.Pattern[bytes]) -> None:
    """Raise `InvalidConfig`, which shows nothing of it, for a file that is no login."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidConfig(key, str(error)) from error
    try:
        import nkeys
    except ImportError as error:
        reason = "needs the package nkeys: pip install 'headrace[nkeys]'"
        raise InvalidConfig(key, reason) from error
    found = seed.search(data)
    if found is None:
        raise InvalidConfig(key, f"{path}: there is no seed of a user in it")
    try:
        nkeys.from_seed(bytearray(found[1]))
    except (nkeys.NkeysError, ValueError) as error:
        reason = f"{path}: the seed in it is none ({type(error).__name__})"
        raise InvalidConfig(key, reason) from None


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
