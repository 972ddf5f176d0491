"""A POST to a provider, answered at once or in pieces; errors sorted by whether to try again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from headrace.ai.chat import ProviderError

TIMEOUT_S: Final = 120.0
SHOWN_CHARS_MAX: Final = 500
RETRY_AFTER_S_MAX: Final = 3_600.0
_JSON: Final = {"content-type": "application/json"}
_OK: Final = 200
_RATE_LIMITED: Final = 429
_TIMED_OUT: Final = 408
_CONFLICT: Final = 409
_OVERLOADED: Final = 529
"""Anthropic's own: all of its customers together ask for too much."""


async def post(
    url: str, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Return the JSON object in the answer. Raises `ProviderError`; never shows *headers*."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=timeout_s) as client:
            answer = await client.post(
                url, content=msgspec.json.encode(body), headers={**_JSON, **headers}
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unreachable(url, error) from error
    if answer.status_code != _OK:
        raise _refusal(url, answer.status_code, answer.content, answer.headers)
    try:
        found = msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise invalid(url, f"is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(url, "is no JSON object")
    return found


async def events(
    url: str, body: Mapping[str, Any], *, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events, as they come.

    https://html.spec.whatwg.org/multipage/server-sent-events.html; of its fields only `data` counts
    here, and ``[DONE]`` is OpenAI's end. *timeout_s*: between two pieces. Raises `ProviderError`.
    """
    import httpx

    try:
        async with (
            httpx.AsyncClient(timeout=timeout_s) as client,
            client.stream(
                "POST", url, content=msgspec.json.encode(body), headers={**_JSON, **headers}
            ) as answer,
        ):
            if answer.status_code != _OK:
                raise _refusal(url, answer.status_code, await answer.aread(), answer.headers)
            data: list[str] = []
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    text, data = "\n".join(data), []
                    if text == "[DONE]":
                        return
                    yield _event(url, text)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unreachable(url, error) from error


class Whole(Protocol):
    """An answer that comes in events, put together."""

    @property
    def stop(self) -> object:
        """True of it once the answer has ended."""
        ...

    def take(self, event: dict[str, Any], /) -> str:
        """Take the next event; return its text."""
        ...

    def found(self) -> dict[str, Any]:
        """Return what an answer in one piece would be."""
        ...


async def streamed(
    url: str,
    body: Mapping[str, Any],
    whole: Whole,
    told: Callable[[str], None],
    *,
    headers: Mapping[str, str],
    timeout_s: float,
) -> dict[str, Any]:
    """Return the whole answer to a POST; *told* is called with its text as it comes.

    Raises `ProviderError`, and whatever *whole* does for what is not in its form.
    """
    async for event in events(url, body, headers=headers, timeout_s=timeout_s):
        text = whole.take(event)
        if text:
            told(text)
    if not whole.stop:
        raise invalid(url, "ended in the middle")
    return whole.found()


def _event(url: str, text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise invalid(url, f"has an event that is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise invalid(url, "has an event that is no JSON object")
    if found.get("error"):
        # In the middle of an answer: as a rule the provider is overloaded.
        raise ProviderError("overloaded", f"{url}: {_said(text.encode())}", retryable=True)
    return found


def _unreachable(url: str, error: Exception) -> ProviderError:
    import httpx

    # An unusable URL stays so; anything else is the network's.
    lasting = isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol)
    text = f"{url}: {str(error) or type(error).__name__}"
    return ProviderError("unreachable", text, retryable=not lasting)


def invalid(url: str, text: str) -> ProviderError:
    """Return the error for an answer that is not in the provider's form; asked again it may be."""
    return ProviderError("invalid-answer", f"the answer of {url} {text}", retryable=True)


def arguments(text: str) -> dict[str, Any]:
    """Return a call's arguments. Raises `ProviderError`: models write broken JSON at times."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        told = f"arguments of a tool call are no JSON: {error}"
        raise ProviderError("invalid-answer", told, retryable=True) from error
    if not isinstance(found, dict):
        told = "arguments of a tool call are no object"
        raise ProviderError("invalid-answer", told, retryable=True)
    return found


def _refusal(url: str, status: int, content: bytes, headers: Mapping[str, str]) -> ProviderError:
    message = f"{url}: {status} {_said(content)}".strip()
    after_s = _retry_after_s(headers)
    if status == _RATE_LIMITED:
        if b"insufficient_quota" in content:
            return ProviderError("quota-exceeded", message, retryable=False)
        return ProviderError("rate-limited", message, retryable=True, retry_after_s=after_s)
    if status in (_TIMED_OUT, _CONFLICT, _OVERLOADED) or status >= 500:
        return ProviderError("overloaded", message, retryable=True, retry_after_s=after_s)
    return ProviderError("refused", message, retryable=False)


def _said(content: bytes) -> str:
    """Return the message in an error's body: both providers have it at ``error.message``."""
    try:
        found = msgspec.json.decode(content)
        text = found["error"]["message"]
    except (msgspec.DecodeError, UnicodeError, LookupError, TypeError):
        text = content.decode("utf-8", "replace")
    return str(text)[:SHOWN_CHARS_MAX]


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return min(max(float(headers.get("retry-after", "0")), 0.0), RETRY_AFTER_S_MAX)
    except ValueError:
        return 0.0  # a date: rare, and the policy's pause will do
