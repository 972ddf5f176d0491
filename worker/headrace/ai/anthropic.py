"""Anthropic's messages over HTTP. https://docs.anthropic.com/en/api/messages"""

from __future__ import annotations

import os
from typing import Any

from headrace.ai.chat import ChatReply, ChatRequest, Message, ToolCall, Usage
from headrace.ai.exchange import TIMEOUT_S, invalid, post

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

    async def chat(self, request: ChatRequest) -> ChatReply:
        """See `ChatProvider.chat`."""
        base = self._base_url or os.environ.get("ANTHROPIC_BASE_URL") or BASE_URL
        url = f"{base.rstrip('/')}/v1/messages"
        key = self._api_key or os.environ.get("ANTHROPIC_API_KEY", "")
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
        found = await post(
            url,
            body | request.extra,
            headers={"x-api-key": key, "anthropic-version": VERSION},
            timeout_s=self._timeout_s,
        )
        try:
            return _reply(found)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise invalid(url, f"is no message: {error!r}") from error


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
