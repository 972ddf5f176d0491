"""Providers without a model, for tests and trials: the same answers each time."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from headrace.ai.chat import ChatReply, ChatRequest, ProviderError

Answer: TypeAlias = ChatReply | ProviderError | str
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+")


class Scripted:
    """Gives *answers* one after the other (a text is a reply; an error is raised).

    Or *answers* is a function of the request, and so also right for a process that was restarted.
    `requests` keeps what was asked.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[ChatRequest], Answer]) -> None:
        self._function = answers if callable(answers) else None
        self._answers = [] if callable(answers) else list(answers)
        self.requests: list[ChatRequest] = []

    @property
    def name(self) -> str:
        """See `ChatProvider.name`."""
        return "scripted"

    async def chat(self, request: ChatRequest) -> ChatReply:
        """See `ChatProvider.chat`."""
        self.requests.append(request)
        if self._function is not None:
            answer = self._function(request)
        elif self._answers:
            answer = self._answers.pop(0)
        else:
            raise ProviderError("refused", "the script is at its end", retryable=False)
        if isinstance(answer, ProviderError):
            raise answer
        reply = ChatReply(text=answer, stop="stop") if isinstance(answer, str) else answer
        return reply if reply.model else msgspec.structs.replace(reply, model=request.model)

    async def stream(self, request: ChatRequest, told: Callable[[str], None]) -> ChatReply:
        """See `StreamingProvider.stream`: word by word."""
        reply = await self.chat(request)
        for piece in _PIECE.findall(reply.text):
            told(piece)
            await asyncio.sleep(0)
        return reply


class HashEmbeddings:
    """Vectors from the hashes of words: texts with the same words are near each other.

    The hashing trick of Weinberger et al., "Feature Hashing for Large Scale Multitask Learning"
    (2009): deterministic, without a model, and good enough to try retrieval with.
    """

    def __init__(self, dimensions: int = 256) -> None:
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """See `EmbeddingProvider.name`."""
        return "hash"

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        """See `EmbeddingProvider.embed`; *model* changes nothing."""
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> list[float]:
        """Return the vector of one text, of length 1 (0 for a text without words)."""
        found = [0.0] * self._dimensions
        for word in _WORD.findall(text.lower()):
            number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            found[(number >> 1) % self._dimensions] += 1.0 if number & 1 else -1.0
        length = math.sqrt(sum(x * x for x in found))
        return [x / length for x in found] if length else found
