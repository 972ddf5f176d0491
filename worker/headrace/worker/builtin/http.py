"""`http/request`: one request, its answer as outputs; checks of status, headers and body."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from headrace.worker.builtin.basic import parse_duration_s
from headrace.worker.builtin.exchange import Answer, Outgoing, retryable, send
from headrace.worker.builtin.paths import workspace_path
from headrace.worker.handlers import Context, HandlerError, handler
from headrace.worker.scalars import text_of

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SHOWN_CHARS_MAX: Final = 200
_MISSING: Final = object()
_Scalar = str | int | float | bool


class Auth(msgspec.Struct, forbid_unknown_fields=True):
    """A name with a password, a token, or a header of one's own."""

    username: str = ""
    password: str = ""
    bearer: str = ""
    header: str = ""
    value: str = ""


class RequestInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """What to ask."""

    url: str
    method: str = "GET"
    headers: dict[str, _Scalar] = {}
    query: dict[str, _Scalar] = {}
    body: Any = None
    """Text; anything else is sent as JSON."""
    json: Any = msgspec.UNSET
    form: dict[str, _Scalar | list[_Scalar]] | None = None
    auth: Auth | None = None
    timeout: float | str = 30
    """Seconds, or a duration such as `90s`: for one exchange."""
    retries: int = 0
    retry_delay: float | str = 1
    follow_redirects: bool = True
    max_bytes: int = BODY_BYTES_MAX
    save_to: str = ""
    expect_status: int | str | list[int | str] = []
    """What counts as success: `200`, `2xx`, or a list; by default any status below 400."""
    expect_body: str | list[str] = []
    expect_headers: dict[str, _Scalar] = {}
    expect_json: dict[str, Any] = {}


class RequestOutputs(msgspec.Struct, omit_defaults=True):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: str
    result: Any
    size: int
    tries: int
    json: Any = msgspec.UNSET
    path: str | msgspec.UnsetType = msgspec.UNSET


@handler("http/request")
async def request(ctx: Context, inputs: RequestInputs) -> RequestOutputs:
    """Send the request; outputs are `status`, `headers`, `body`, `json` (if it is) and `result`.

    Connection errors, 5xx, 408, 425 and 429 are worth another attempt; other statuses are not,
    nor is an answer that is not as expected.
    """
    outgoing = _outgoing(ctx, inputs)
    patterns = _patterns(inputs.expect_status)
    answer, tries = await send(
        ctx,
        outgoing,
        accept=lambda status: accepted(status, patterns),
        retries=inputs.retries,
        delay_s=parse_duration_s(inputs.retry_delay),
    )
    outputs = _outputs(answer, tries)
    if outgoing.save_to is not None and answer.status < 400:
        outputs.path = str(outgoing.save_to)
    what = f"{outgoing.method} {outgoing.target}"
    if not accepted(answer.status, patterns):
        text = f"{what}: status {answer.status}"
        raise HandlerError("http-status", text, retryable(answer.status), output=_plain(outputs))
    unmet = unexpected(inputs, answer.headers, outputs)
    if unmet:
        text = f"{what}: {'; '.join(unmet)}"
        raise HandlerError("http-assertion", text, False, output=_plain(outputs))
    return outputs


def accepted(status: int, patterns: Sequence[str]) -> bool:
    """Tell whether *status* is one of *patterns* (`200`, `2xx`); none: any below 400."""
    if not patterns:
        return status < 400
    text = str(status)
    return any(
        all(want in ("x", got) for want, got in zip(pattern, text, strict=True))
        for pattern in patterns
    )


def unexpected(
    inputs: RequestInputs, headers: dict[str, str], outputs: RequestOutputs
) -> list[str]:
    """Return what of the answer is not as *inputs* expect it, in words."""
    wanted = [inputs.expect_body] if isinstance(inputs.expect_body, str) else inputs.expect_body
    unmet = [
        f"the body does not hold {_short(text)}" for text in wanted if text not in outputs.body
    ]
    for name, value in inputs.expect_headers.items():
        got = headers.get(name.lower())
        if got != text_of(value):
            unmet.append(f"header {name} is {_short(got)}, not {_short(text_of(value))}")
    for path, value in inputs.expect_json.items():
        found = json_at(outputs.json, path)
        if found is _MISSING:
            unmet.append(f"the answer has no {path}")
        elif found != value or isinstance(found, bool) != isinstance(value, bool):
            unmet.append(f"{path} is {_short(found)}, not {_short(value)}")
    return unmet


def json_at(value: Any, path: str) -> Any:
    """Return what stands at *path* (``items.0.id``) in a JSON value, else a mark of absence."""
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part[:9]) < len(value):
            value = value[int(part[:9])]
        else:
            return _MISSING
    return _MISSING if value is msgspec.UNSET else value


def _outgoing(ctx: Context, inputs: RequestInputs) -> Outgoing:
    method = inputs.method.upper()
    if method not in _METHODS:
        raise HandlerError("invalid-input", f"http/request: method {inputs.method!r}", False)
    if not 1 <= inputs.max_bytes <= BODY_BYTES_MAX and not inputs.save_to:
        text = f"http/request: max-bytes from 1 to {BODY_BYTES_MAX}; more with save-to"
        raise HandlerError("invalid-input", text, False)
    headers = {name: text_of(value) for name, value in inputs.headers.items()}
    content, kind = _content(inputs)
    if kind and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    if (trace := ctx.traceparent) and not any(n.lower() == "traceparent" for n in headers):
        headers["traceparent"] = trace
    return Outgoing(
        method=method,
        url=inputs.url,
        headers=headers | _token(inputs.auth),
        query={name: text_of(value) for name, value in inputs.query.items()},
        content=content,
        login=_login(inputs.auth),
        follow_redirects=inputs.follow_redirects,
        timeout_s=parse_duration_s(inputs.timeout),
        bytes_max=inputs.max_bytes,
        save_to=workspace_path(ctx, inputs.save_to) if inputs.save_to else None,
    )


def _content(inputs: RequestInputs) -> tuple[bytes | None, str]:
    """Return the body and its media type."""
    given = [inputs.body is not None, inputs.json is not msgspec.UNSET, inputs.form is not None]
    if sum(given) > 1:
        raise HandlerError("invalid-input", "http/request: one of body, json and form", False)
    if inputs.form is not None:
        pairs = [
            (name, text_of(item))
            for name, value in inputs.form.items()
            for item in (value if isinstance(value, list) else [value])
        ]
        return urllib.parse.urlencode(pairs).encode(), "application/x-www-form-urlencoded"
    payload = inputs.json if inputs.json is not msgspec.UNSET else inputs.body
    if inputs.json is not msgspec.UNSET or not isinstance(payload, str | None):
        return json.dumps(payload, ensure_ascii=False).encode(), "application/json"
    return (None, "") if payload is None else (payload.encode(), "")


def _login(auth: Auth | None) -> tuple[str, str] | None:
    return (auth.username, auth.password) if auth is not None and auth.username else None


def _token(auth: Auth | None) -> dict[str, str]:
    if auth is None:
        return {}
    ways = [bool(auth.username or auth.password), bool(auth.bearer), bool(auth.header)]
    if sum(ways) != 1 or (auth.value and not auth.header) or (auth.password and not auth.username):
        text = "http/request: auth is {username, password}, {bearer} or {header, value}"
        raise HandlerError("invalid-input", text, False)
    if auth.bearer:
        return {"Authorization": f"Bearer {auth.bearer}"}
    return {auth.header: auth.value} if auth.header else {}


def _outputs(answer: Answer, tries: int) -> RequestOutputs:
    body = answer.text()
    outputs = RequestOutputs(
        status=answer.status,
        headers=answer.headers,
        body=body,
        result=body,
        size=answer.size,
        tries=tries,
    )
    if "json" in answer.headers.get("content-type", "") or body[:1] in ("{", "["):
        try:
            outputs.json = outputs.result = json.loads(body)
        except (ValueError, RecursionError):
            # It only looked like JSON: the text stays the result.
            pass
    return outputs


def _plain(outputs: RequestOutputs) -> dict[str, Any]:
    plain = msgspec.to_builtins(outputs)
    assert isinstance(plain, dict)
    return plain


def _patterns(expected: int | str | list[int | str]) -> list[str]:
    wanted = expected if isinstance(expected, list) else str(expected).split(",")
    patterns = [str(item).strip().lower() for item in wanted]
    for pattern in patterns:
        if len(pattern) != 3 or not all(c.isdigit() or c == "x" for c in pattern):
            raise HandlerError("invalid-input", f"http/request: expect-status {pattern!r}", False)
    return patterns


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
