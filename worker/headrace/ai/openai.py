"""Providers that speak OpenAI's HTTP: chat completions and embeddings.

Many servers do (vLLM, llama.cpp, Ollama, gateways): *base_url* says which.
https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.ai.chat import ChatReply, ChatRequest, Message, ProviderError, ToolCall, Usage
from headrace.ai.exchange import TIMEOUT_S, invalid, post

BASE_URL = "https://api.openai.com/v1"


class OpenAI:
    """Without *api_key* that of the environment (`OPENAI_API_KEY`) is used, when it is needed."""

    def __init__(
        self, *, base_url: str = "", api_key: str = "", timeout_s: float = TIMEOUT_S
    ) -> None:
        self._base_url, self._api_key = base_url, api_key
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """See `ChatProvider.name`."""
        return "openai"

    def _url(self, path: str) -> str:
        base = self._base_url or os.environ.get("OPENAI_BASE_URL") or BASE_URL
        return f"{base.rstrip('/')}/{path}"

    def _headers(self) -> dict[str, str]:
        key = self._api_key or os.environ.get("OPENAI_API_KEY", "")
        # A server of one's own may ask for none.
        return {"authorization": f"Bearer {key}"} if key else {}

    async def chat(self, request: ChatRequest) -> ChatReply:
        """See `ChatProvider.chat`."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [
                *([{"role": "system", "content": request.system}] if request.system else []),
                *map(_spoken, request.messages),
            ],
            "max_tokens": request.max_tokens,
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.tools:
            body["tools"] = [
                {"type": "function", "function": msgspec.to_builtins(tool)}
                for tool in request.tools
            ]
        url = self._url("chat/completions")
        found = await post(
            url, body | request.extra, headers=self._headers(), timeout_s=self._timeout_s
        )
        try:
            return _reply(found)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise invalid(url, f"is no chat completion: {error!r}") from error

    async def embed(self, texts: Sequence[str], *, model: str) -> list[list[float]]:
        """See `EmbeddingProvider.embed`."""
        url = self._url("embeddings")
        body = {"model": model, "input": list(texts)}
        found = await post(url, body, headers=self._headers(), timeout_s=self._timeout_s)
        try:
            rows = sorted(found["data"], key=lambda row: row["index"])
            vectors = [[float(x) for x in row["embedding"]] for row in rows]
        except (LookupError, TypeError, ValueError) as error:
            raise invalid(url, f"holds no embeddings: {error!r}") from error
        if len(vectors) != len(texts):
            raise invalid(url, f"has {len(vectors)} vectors for {len(texts)} texts")
        return vectors


def _spoken(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    spoken: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.calls:
        spoken["content"] = message.text or None
        spoken["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": msgspec.json.encode(call.arguments).decode(),
                },
            }
            for call in message.calls
        ]
    return spoken


def _reply(found: dict[str, Any]) -> ChatReply:
    choice, usage = found["choices"][0], found.get("usage") or {}
    message = choice["message"]
    calls = [
        ToolCall(
            str(call["id"]),
            str(call["function"]["name"]),
            arguments(call["function"].get("arguments") or "{}"),
        )
        for call in message.get("tool_calls") or ()
    ]
    return ChatReply(
        text=message.get("content") or message.get("refusal") or "",
        calls=calls,
        model=str(found.get("model", "")),
        stop=str(choice.get("finish_reason") or ""),
        usage=Usage(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))),
        id=str(found.get("id", "")),
    )


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
