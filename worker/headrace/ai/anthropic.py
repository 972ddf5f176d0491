"""Anthropic's messages over HTTP. https://docs.anthropic.com/en/api/messages"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from headrace.ai.chat import ChatReply, ChatRequest, Message, ToolCall, Usage
from headrace.ai.exchange import TIMEOUT_S, arguments, invalid, post, streamed

BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"


class Anthropic:
    """Without *api_key* that of the environment (`ANTHROPIC_API_KEY`) is used."""

    def __init__(
        self, *, base_url: str = "", api_key: str = "", timeout_s: float = TIMEOUT_S
    ) -> None:
        self._base_url, self._api_key = base_url, api_key
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """See `ChatProvider.name`."""
        return "anthropic"

    def _url(self) -> str:
        base = self._base_url or os.environ.get("ANTHROPIC_BASE_URL") or BASE_URL
        return f"{base.rstrip('/')}/v1/messages"

    def _headers(self) -> dict[str, str]:
        key = self._api_key or os.environ.get("ANTHROPIC_API_KEY", "")
        return {"x-api-key": key, "anthropic-version": VERSION}

    async def chat(self, request: ChatRequest) -> ChatReply:
        """See `ChatProvider.chat`."""
        url = self._url()
        found = await post(url, _body(request), headers=self._headers(), timeout_s=self._timeout_s)
        try:
            return _reply(found)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise invalid(url, f"is no message: {error!r}") from error

    async def stream(self, request: ChatRequest, told: Callable[[str], None]) -> ChatReply:
        """See `StreamingProvider.stream`."""
        url = self._url()
        body = _body(request) | {"stream": True}
        try:
            found = await streamed(
                url, body, _Whole(), told, headers=self._headers(), timeout_s=self._timeout_s
            )
            return _reply(found)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise invalid(url, f"is no message: {error!r}") from error


def _body(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": _spoken(request.messages),
    }
    if request.system:
        body["system"] = request.system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [
            {"name": t.name, "description": t.description, "input_schema": t.parameters}
            for t in request.tools
        ]
    return body | request.extra


class _Whole:
    """A message that comes in events, put together.

    https://docs.anthropic.com/en/api/messages-streaming
    """

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self.stop = False
        """It has ended."""

    def take(self, event: dict[str, Any]) -> str:
        """Take the next event; return its text."""
        kind = event["type"]
        if kind == "message_start":
            self._message = event["message"]
        elif kind == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            return self._delta(event["index"], event["delta"])
        elif kind == "message_delta":
            self._message["stop_reason"] = event["delta"].get("stop_reason")
            self._message["usage"] = (self._message.get("usage") or {}) | (event.get("usage") or {})
        elif kind == "message_stop":
            self.stop = True
        return ""

    def _delta(self, index: int, delta: dict[str, Any]) -> str:
        if delta["type"] == "text_delta":
            text = str(delta["text"])
            self._blocks[index]["text"] += text
            return text
        if delta["type"] == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + delta["partial_json"]
        return ""

    def found(self) -> dict[str, Any]:
        """Return what an answer in one piece would be."""
        for index, text in self._inputs.items():
            if text:
                self._blocks[index]["input"] = arguments(text)
        return self._message | {"content": [self._blocks[i] for i in sorted(self._blocks)]}


def _spoken(messages: list[Message]) -> list[dict[str, Any]]:
    """Results of tools that follow each other are one turn of the user's."""
    spoken: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            block = {
                "type": "tool_result",
                "tool_use_id": message.call_id,
                "content": message.text,
            }
            last = spoken[-1] if spoken else None
            if last is not None and last["role"] == "user" and isinstance(last["content"], list):
                last["content"].append(block)
            else:
                spoken.append({"role": "user", "content": [block]})
        elif message.calls:
            blocks: list[dict[str, Any]] = []
            if message.text:
                blocks.append({"type": "text", "text": message.text})
            blocks += [
                {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
                for call in message.calls
            ]
            spoken.append({"role": message.role, "content": blocks})
        else:
            spoken.append({"role": message.role, "content": message.text})
    return spoken


def _reply(found: dict[str, Any]) -> ChatReply:
    blocks, usage = found["content"], found.get("usage") or {}
    return ChatReply(
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        calls=[
            ToolCall(str(block["id"]), str(block["name"]), dict(block["input"]))
            for block in blocks
            if block["type"] == "tool_use"
        ],
        model=str(found.get("model", "")),
        stop=str(found.get("stop_reason") or ""),
        usage=Usage(int(usage.get("input_tokens", 0)), int(usage.get("output_tokens", 0))),
        id=str(found.get("id", "")),
    )
