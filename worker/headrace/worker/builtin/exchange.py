"""One HTTP exchange for a step, with tries, limits and a bound in time; `httpx` talks."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import functools
import math
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from headrace.worker.handlers import Context, HandlerError

if TYPE_CHECKING:
    import httpx

REDIRECTS_MAX: Final = 10
RETRIES_MAX: Final = 20
DELAY_S_MAX: Final = 60.0
RETRY_STATUSES: Final = frozenset({408, 425, 429})


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, and within which limits."""

    method: str
    url: str
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    content: bytes | None = None
    login: tuple[str, str] | None = None
    follow_redirects: bool = True
    timeout_s: float = 30.0
    """For one try, from the first byte out to the last byte in."""
    bytes_max: int = 32 * 1024 * 1024
    save_to: Path | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise HandlerError(
                "invalid-input", f"url {shown(self.url)!r} is not http(s)://…", False
            )

    @property
    def target(self) -> str:
        """The URL without what may be a secret."""
        return shown(self.url)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back; `body` is empty when it went to a file."""

    status: int
    headers: dict[str, str]
    body: bytes
    encoding: str
    size: int

    def text(self) -> str:
        """Return the body decoded; what does not decode becomes U+FFFD."""
        try:
            return self.body.decode(self.encoding, "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")


class Accept(Protocol):
    """Decides whether a status is what the step wants."""

    def __call__(self, status: int) -> bool:
        """Tell so."""
        ...


def shown(url: str) -> str:
    """Return *url* for messages: without user, password, query and fragment."""
    scheme, mark, rest = url.partition("://")
    rest = rest.partition("?")[0].partition("#")[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def retryable(status: int) -> bool:
    """Tell whether the same request may well succeed later."""
    return status >= 500 or status in RETRY_STATUSES


async def send(
    ctx: Context,
    outgoing: Outgoing,
    *,
    accept: Accept,
    retries: int = 0,
    delay_s: float = 1.0,
) -> tuple[Answer, int]:
    """Send until the status is accepted, is not worth another try, or the tries are used up.

    Returns the last answer and how many requests were sent. Raises `HandlerError` of the types
    `timeout`, `http-connection`, `invalid-input`, `result-too-large` and `not-installed`.
    """
    if not 0 <= retries <= RETRIES_MAX:
        raise HandlerError("invalid-input", f"retries: from 0 to {RETRIES_MAX}", False)
    try:
        import httpx
    except ImportError as error:
        text = "this handler needs httpx: install headrace[worker]"
        raise HandlerError("not-installed", text, False) from error
    client = httpx.AsyncClient(
        verify=_tls(),
        follow_redirects=outgoing.follow_redirects,
        max_redirects=REDIRECTS_MAX,
        timeout=None,
        auth=outgoing.login,
    )
    async with client:
        for tries in range(1, retries + 2):
            last = tries > retries
            wait_s = min(delay_s * 2 ** (tries - 1), DELAY_S_MAX)
            try:
                answer = await _once(client, outgoing)
            except HandlerError as error:
                if last or not error.retryable:
                    raise
                why = error.message
            else:
                if accept(answer.status) or last or not retryable(answer.status):
                    return answer, tries
                wait_s = max(wait_s, retry_after_s(answer.headers.get("retry-after", "")))
                why = f"status {answer.status}"
            ctx.log(f"{why}; again in {wait_s:g} s ({tries} of {retries})", stream="system")
            await asyncio.sleep(wait_s)
    raise AssertionError("unreachable")


def retry_after_s(value: str, *, now: datetime.datetime | None = None) -> float:
    """Return a `Retry-After` header (seconds or a date, RFC 9110) in seconds, bounded."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), DELAY_S_MAX)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    left_s = (when - (now or datetime.datetime.now(tz=datetime.UTC))).total_seconds()
    return min(max(left_s, 0.0), DELAY_S_MAX) if math.isfinite(left_s) else 0.0


async def _once(client: httpx.AsyncClient, outgoing: Outgoing) -> Answer:
    import httpx

    try:
        async with (
            asyncio.timeout(outgoing.timeout_s),
            client.stream(
                outgoing.method,
                outgoing.url,
                headers=dict(outgoing.headers),
                params=dict(outgoing.query) or None,
                content=outgoing.content,
            ) as response,
        ):
            body, size = await _received(response, outgoing)
            return Answer(
                status=response.status_code,
                headers=dict(response.headers),
                body=body,
                encoding=response.charset_encoding or "utf-8",
                size=size,
            )
    except TimeoutError as error:
        raise HandlerError("timeout", f"no answer within {outgoing.timeout_s:g} s") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise HandlerError("invalid-input", f"{outgoing.target}: {error}", False) from error
    except httpx.TooManyRedirects as error:
        text = f"{outgoing.target}: over {REDIRECTS_MAX} redirects"
        raise HandlerError("http-redirects", text, False) from error
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        text = f"{outgoing.method} {outgoing.target} failed: {why}"
        raise HandlerError("http-connection", text) from error


async def _received(response: httpx.Response, outgoing: Outgoing) -> tuple[bytes, int]:
    """Return the body and its size; a file gets a good answer's body whole, or is not touched."""
    if outgoing.save_to is None or response.status_code >= 400:
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            _check_size(len(data), outgoing)
        return bytes(data), len(data)
    target = outgoing.save_to
    scratch = await asyncio.to_thread(_scratch_beside, target)
    size = 0
    try:
        with scratch.open("wb") as file:
            async for chunk in response.aiter_bytes(256 * 1024):
                size += len(chunk)
                _check_size(size, outgoing)
                await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(scratch.replace, target)
    except OSError as error:
        raise HandlerError("file", f"{target}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return b"", size


def _check_size(size: int, outgoing: Outgoing) -> None:
    if size > outgoing.bytes_max:
        text = f"the answer is over {outgoing.bytes_max} bytes"
        raise HandlerError("result-too-large", text, False)


def _scratch_beside(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".headrace-")
    except OSError as error:
        raise HandlerError("file", f"{target}: {error.strerror or error}") from error
    os.close(handle)
    return Path(name)


@functools.cache
def _tls() -> ssl.SSLContext:
    # Loading the authorities takes some ten milliseconds: once a process.
    return ssl.create_default_context()


def json_text(value: Any) -> bytes:
    """Return *value* as JSON to send."""
    return msgspec.json.encode(value)
