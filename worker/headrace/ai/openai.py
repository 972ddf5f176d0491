"""Providers that speak OpenAI's HTTP: chat completions and embeddings.

Many servers do (vLLM, llama.cpp, Ollama, gateways): *base_url* says which.
https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from headrace.ai.chat import ChatReply, ChatRequest, Message, ToolCall, Usage
from headrace.ai.exchange import TIMEOUT_S, arguments, invalid, post, streamed

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
        url = self._url("chat/completions")
        found = await post(url, _body(request), headers=self._headers(), timeout_s=self._timeout_s)
        try:
            return _reply(found)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise invalid(url, f"is no chat completion: {error!r}") from error

    async def stream(self, request: ChatRequest, told: Callable[[str], None]) -> ChatReply:
        """See `StreamingProvider.stream`."""
        url = self._url("chat/completions")
        body = _body(request) | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            found = await streamed(
                url, body, _Whole(), told, headers=self._headers(), timeout_s=self._timeout_s
            )
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


def _body(request: ChatRequest) -> dict[str, Any]:
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
            {"type": "function", "function": msgspec.to_builtins(tool)} for tool in request.tools
        ]
    return body | request.extra


class _Whole:
    """A completion that comes in pieces (`chat.completion.chunk`), put together."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._text: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._usage: dict[str, Any] = {}
        self.stop = ""
        """Why it has ended; empty: it has not."""

    def take(self, chunk: dict[str, Any]) -> str:
        """Take the next piece; return its text."""
        self._head = self._head or {"id": chunk.get("id"), "model": chunk.get("model")}
        self._usage = chunk.get("usage") or self._usage
        told = ""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            told += delta.get("content") or delta.get("refusal") or ""
            for piece in delta.get("tool_calls") or ():
                self._call(piece)
            self.stop = choice.get("finish_reason") or self.stop
        self._text.append(told)
        return told

    def _call(self, piece: dict[str, Any]) -> None:
        index = piece.get("index", len(self._calls))
        empty: dict[str, Any] = {"id": "", "function": {"name": "", "arguments": ""}}
        call = self._calls.setdefault(index, empty)
        call["id"] = piece.get("id") or call["id"]
        for name, text in (piece.get("function") or {}).items():
            call["function"][name] += text or ""

    def found(self) -> dict[str, Any]:
        """Return what an answer in one piece would be."""
        calls = [self._calls[index] for index in sorted(self._calls)]
        message = {"content": "".join(self._text), "tool_calls": calls}
        choice = {"message": message, "finish_reason": self.stop}
        return {**self._head, "choices": [choice], "usage": self._usage}


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
