"""What is said to a model and what it answers, whoever provides it; and the small protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from headrace.errors import HeadraceError


def _no_parameters() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool that a model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=_no_parameters)
    """JSON Schema of its arguments, an object."""


class ToolCall(msgspec.Struct, frozen=True):
    """A model's wish to have a tool called."""

    id: str
    name: str
    arguments: dict[str, Any] = {}


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: list[ToolCall] = []
    """Of an assistant: the tools that it wants called."""
    call_id: str = ""
    """Of a tool's result: the call that it answers."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens, as the provider counts them."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens


class ChatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that decides an answer, but for the model's chance."""

    model: str
    messages: list[Message]
    system: str = ""
    tools: list[ToolSpec] = []
    temperature: float | None = None
    """None: the provider's default."""
    max_tokens: int = 1_024
    """Of the answer."""
    extra: dict[str, Any] = {}
    """Further fields of the provider's own request."""


class ChatReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's answer."""

    text: str = ""
    calls: list[ToolCall] = []
    model: str = ""
    """Which one has answered, as it says itself: a request names an alias at times."""
    stop: str = ""
    """Why it stopped, in the provider's words: `stop`, `tool_calls`, `end_turn`, `length`, …"""
    usage: Usage = Usage()
    id: str = ""
    """The provider's id of the answer."""


class ProviderError(HeadraceError):
    """A provider did not answer as it should."""

    code = "provider-error"

    def __init__(
        self, type: str, message: str, *, retryable: bool, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.type, self.message, self.retryable = type, message, retryable
        """`type`: `rate-limited`, `overloaded`, `unreachable`, `refused`, `invalid-answer`."""
        self.retry_after_s = retry_after_s
        """Before then it will not answer; 0: not said."""


class ChatProvider(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """Of the provider, for evidence: `openai`, `anthropic`."""
        ...

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Return the answer. Raises `ProviderError`."""
        ...


@runtime_checkable
class StreamingProvider(ChatProvider, Protocol):
    """Answers conversations word by word, too."""

    async def stream(self, request: ChatRequest, told: Callable[[str], None]) -> ChatReply:
        """Return the whole answer; *told* is called with each piece of its text as it comes.

        Raises `ProviderError`, also in the middle.
        """
        ...


class EmbeddingProvider(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """Of the provider, for evidence."""
        ...

    async def embed(self, texts: Sequence[str], *, model: str) -> list[list[float]]:
        """Return a vector for each text, in order. Raises `ProviderError`."""
        ...
