"""`http/request`: one request, its answer as outputs."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from typing import Any, Final

import msgspec

from headrace.worker.builtin.basic import parse_duration_s
from headrace.worker.builtin.shell import text_of
from headrace.worker.handlers import Context, HandlerError, handler

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
REDIRECTS_MAX: Final = 10
_WORTH_AGAIN: Final = frozenset({408, 425, 429})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Auth(msgspec.Struct, forbid_unknown_fields=True):
    """Either a name with a password, or a token."""

    username: str = ""
    password: str = ""
    bearer: str = ""


class RequestInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """What to ask."""

    url: str
    method: str = "GET"
    headers: dict[str, str | int | float | bool] = {}
    query: dict[str, str | int | float | bool] = {}
    body: Any = None
    """Text; anything else is sent as JSON."""
    json: Any = msgspec.UNSET
    timeout: float | str = 30.0
    """Seconds, or a duration such as `90s`: for the whole exchange."""
    expect_status: int | str | list[int | str] = []
    """What counts as success: `200`, `2xx`, or a list; by default any status below 400."""
    follow_redirects: bool = True
    auth: Auth | None = None


@handler("http/request")
async def request(_ctx: Context, inputs: RequestInputs) -> dict[str, Any]:
    """Send the request; outputs are `status`, `headers`, `body`, `json` (if it is) and `result`.

    Connection errors, 5xx, 408, 425 and 429 are worth another attempt; other statuses are not.
    """
    method = inputs.method.upper()
    if method not in _METHODS:
        raise HandlerError("invalid-input", f"http/request: method {inputs.method!r}", False)
    if not inputs.url.startswith(("http://", "https://")):
        raise HandlerError("invalid-input", f"http/request: url {inputs.url!r}", False)
    patterns = _patterns(inputs.expect_status)
    status, headers, body = await _exchange(inputs, method)
    outputs: dict[str, Any] = {"status": status, "headers": headers, "body": body}
    outputs["result"] = body
    if "json" in headers.get("content-type", "") or body[:1] in ("{", "["):
        try:
            outputs["json"] = outputs["result"] = json.loads(body)
        except (ValueError, RecursionError):
            # It only looked like JSON: the text stays the result.
            pass
    if not accepted(status, patterns):
        retryable = status >= 500 or status in _WORTH_AGAIN
        text = f"{method} {inputs.url.partition('?')[0]}: status {status}"
        raise HandlerError("http-status", text, retryable, output=outputs)
    return outputs


def accepted(status: int, patterns: list[str]) -> bool:
    """Tell whether *status* is one of *patterns* (`200`, `2xx`); none: any below 400."""
    if not patterns:
        return status < 400
    text = str(status)
    return any(
        all(want in ("x", got) for want, got in zip(pattern, text, strict=True))
        for pattern in patterns
    )


def _patterns(expected: int | str | list[int | str]) -> list[str]:
    wanted = expected if isinstance(expected, list) else str(expected).split(",")
    patterns = [str(item).strip().lower() for item in wanted]
    for pattern in patterns:
        if len(pattern) != 3 or not all(c.isdigit() or c == "x" for c in pattern):
            raise HandlerError("invalid-input", f"http/request: expect-status {pattern!r}", False)
    return patterns


async def _exchange(inputs: RequestInputs, method: str) -> tuple[int, dict[str, str], str]:
    try:
        import httpx
    except ImportError as error:
        text = "http/request needs httpx: install headrace[worker]"
        raise HandlerError("not-installed", text, False) from error
    headers = {name: text_of(value) for name, value in inputs.headers.items()}
    content: str | None = None
    payload = inputs.json if inputs.json is not msgspec.UNSET else inputs.body
    if inputs.json is not msgspec.UNSET or not isinstance(payload, str | None):
        content = json.dumps(payload, ensure_ascii=False)
        if not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
    else:
        content = payload
    login: tuple[str, str] | None = None
    if inputs.auth is not None and inputs.auth.bearer:
        headers["Authorization"] = f"Bearer {inputs.auth.bearer}"
    elif inputs.auth is not None:
        login = (inputs.auth.username, inputs.auth.password)
    seconds = parse_duration_s(inputs.timeout)
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(
                verify=_tls(),
                follow_redirects=inputs.follow_redirects,
                max_redirects=REDIRECTS_MAX,
                timeout=None,
                auth=login,
            ) as client,
            client.stream(
                method,
                inputs.url,
                headers=headers,
                params={name: text_of(value) for name, value in inputs.query.items()} or None,
                content=None if content is None else content.encode(),
            ) as response,
        ):
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > BODY_BYTES_MAX:
                    text = f"the answer is over {BODY_BYTES_MAX} bytes"
                    raise HandlerError("result-too-large", text, False)
            encoding = response.charset_encoding or "utf-8"
            try:
                body = data.decode(encoding, "replace")
            except LookupError:
                body = data.decode("utf-8", "replace")
            return response.status_code, dict(response.headers), body
    except TimeoutError as error:
        raise HandlerError("timeout", f"no answer within {seconds:g} s") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise HandlerError("invalid-input", f"http/request: {error}", False) from error
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise HandlerError("http-connection", f"{method} failed: {why}") from error


@functools.cache
def _tls() -> ssl.SSLContext:
    # Loading the authorities takes some ten milliseconds: once a process.
    return ssl.create_default_context()
