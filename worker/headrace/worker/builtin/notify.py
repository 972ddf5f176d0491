"""`notify/webhook`: a message to a webhook, in the form that its kind understands."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from headrace.messages import subjects
from headrace.worker.builtin.basic import parse_duration_s
from headrace.worker.builtin.exchange import Outgoing, json_text, retryable, send
from headrace.worker.handlers import Context, HandlerError, handler
from headrace.worker.scalars import text_of

_COLOURS: Final = {
    "info": "#3b82f6",
    "success": "#16a34a",
    "warning": "#d97706",
    "error": "#dc2626",
}
ANSWER_BYTES_MAX: Final = 1024 * 1024
_Scalar = str | int | float | bool | None


class WebhookInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """What to say, and where."""

    url: str
    message: str
    format: Literal["slack", "discord", "json"] = "slack"
    title: str = ""
    level: Literal["info", "success", "warning", "error"] = "info"
    fields: dict[str, _Scalar] = {}
    channel: str = ""
    username: str = ""
    headers: dict[str, str | int | float | bool] = {}
    timeout: float | str = 10
    retries: int = 3


class WebhookOutputs(msgspec.Struct):
    """What the webhook answered."""

    status: int
    tries: int


@handler("notify/webhook")
async def webhook(ctx: Context, inputs: WebhookInputs) -> WebhookOutputs:
    """Send the message. The address is a secret: it stands in no output and no error."""
    if not inputs.url.startswith(("http://", "https://")):
        raise HandlerError("invalid-input", "notify/webhook: url is not http(s)://…", False)
    headers = {name: text_of(value) for name, value in inputs.headers.items()}
    outgoing = Outgoing(
        method="POST",
        url=inputs.url,
        headers={"Content-Type": "application/json"} | headers,
        content=json_text(body_of(ctx, inputs)),
        timeout_s=parse_duration_s(inputs.timeout),
        bytes_max=ANSWER_BYTES_MAX,
    )
    try:
        answer, tries = await send(
            ctx, outgoing, accept=lambda status: status < 300, retries=inputs.retries
        )
    except HandlerError as error:
        text = error.message.replace(outgoing.target, "the webhook")
        raise HandlerError(error.type, text, error.retryable) from error
    if answer.status >= 300:
        said = answer.text()[:200].strip()
        text = f"the webhook answered {answer.status}" + (f": {said}" if said else "")
        raise HandlerError("http-status", text, retryable(answer.status))
    return WebhookOutputs(answer.status, tries)


def body_of(ctx: Context, inputs: WebhookInputs) -> dict[str, Any]:
    """Return the body for the webhook."""
    facts = {name: text_of(value) for name, value in inputs.fields.items()}
    if inputs.format == "json":
        namespace, run = subjects.split_key(ctx.run)
        options = ctx.task.options
        return {
            "title": inputs.title,
            "message": inputs.message,
            "level": inputs.level,
            "fields": dict(inputs.fields),
            "run": run,
            "namespace": namespace,
            "workflow": options.workflow if options is not None else "",
            "step": ctx.path,
            "attempt": ctx.attempt,
            "idempotency_key": ctx.idempotency_key,
        }
    if inputs.format == "discord":
        lines = [f"**{inputs.title}**"] if inputs.title else []
        lines += [inputs.message, *(f"{name}: {value}" for name, value in facts.items())]
        body: dict[str, Any] = {"content": "\n".join(lines)[:2_000]}
        return body | ({"username": inputs.username} if inputs.username else {})
    body = {"text": f"*{inputs.title}*\n{inputs.message}" if inputs.title else inputs.message}
    if facts or inputs.level != "info":
        body["attachments"] = [
            {
                "color": _COLOURS[inputs.level],
                "fallback": inputs.message,
                "fields": [
                    {"title": name, "value": value, "short": len(value) <= 40}
                    for name, value in facts.items()
                ],
            }
        ]
    for key in ("channel", "username"):
        if value := getattr(inputs, key):
            body[key] = value
    return body
