"""Handlers for YAML: ``flowctl worker --app headrace.ai.handlers:app``.

`ai/chat`, `ai/embed`; `rag/load`, `rag/split`, `rag/index`, `rag/retrieve`, `rag/rerank`. Each is
a step: recorded, retried by its policy, with what it read and which model decided as evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from headrace.ai import ranking
from headrace.ai.agent import parameters_of
from headrace.ai.anthropic import Anthropic
from headrace.ai.chat import (
    ChatProvider,
    ChatReply,
    ChatRequest,
    EmbeddingProvider,
    Message,
    ProviderError,
    ToolSpec,
)
from headrace.ai.documents import Document, load
from headrace.ai.index import VectorIndex
from headrace.ai.openai import OpenAI
from headrace.ai.scripted import HashEmbeddings, Scripted
from headrace.ai.splitting import (
    Chunk,
    by_meaning,
    by_structure,
    by_tokens,
    chunks_of,
    packed,
    sentences,
)
from headrace.worker.handlers import Context, HandlerError, handler

EMBED_BATCH: Final = 100
"""Texts of one request."""
HASH: Final = "hash"


class Model(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """Which model, and how it is reached."""

    provider: Literal["openai", "anthropic", "scripted"] = "openai"
    model: str
    base_url: str = ""
    api_key: str = ""
    """Better as ``${{ secrets.NAME }}``, or in the worker's environment."""
    temperature: float | None = None
    max_tokens: int = 1_024
    script: list[str] = []
    """Of `scripted`: its answers, by the number of messages of the assistant before."""
    extra: dict[str, Any] = {}


class ChatInputs(Model, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """A conversation: `prompt`, or `messages`."""

    prompt: str = ""
    system: str = ""
    messages: list[Message] = []
    tools: list[ToolSpec] = []
    context: list[Any] = []
    """What the answer is to be based on: texts, or hits of `rag/retrieve`; put before `prompt`."""


class Embedding(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True
):
    """Which model makes vectors. `hash` needs none: it is for trials and tests."""

    provider: Literal["openai", "hash"] = "openai"
    model: str = HASH
    base_url: str = ""
    api_key: str = ""


class EmbedInputs(Embedding, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """Texts to turn into vectors."""

    texts: list[str]


class LoadInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """Files of the job's workspace, or with absolute paths."""

    path: str | list[str]
    """With `*` and `**`: all that match, in order of their names."""
    kind: str = ""
    """`text`, `markdown`, `html`, `pdf`; empty: by its name."""


class SplitInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """How documents are cut."""

    documents: list[Document]
    by: Literal["structure", "meaning", "tokens"] = "structure"
    size: int = 400
    """Tokens (words and marks) of a chunk, at most."""
    overlap: int = 0
    """Of `tokens`: so many tokens are in the chunk before, too."""
    threshold: float = 0.2
    """Of `meaning`: a new chunk begins below this cosine."""
    embedding: Embedding = Embedding(provider="hash")


class IndexInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What is stored, and where."""

    database: str
    """Path of the SQLite file, on a disk that all workers with this step have."""
    collection: str = "default"
    chunks: list[Chunk]
    vectors: list[list[float]] | None = None
    """Of `ai/embed`; without them they are made here."""
    embedding: Embedding = Embedding(provider="hash")
    replace: bool = True
    """What was stored of the same sources goes."""


class RetrieveInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What is looked for."""

    database: str
    query: str
    collection: str = "default"
    limit: int = 5
    sources: list[str] = []
    at_least: float = 0.0
    embedding: Embedding = Embedding(provider="hash")


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chunk as it leaves the retriever, and the reranker."""

    id: str
    source: str
    text: str
    score: float
    heading: str = ""
    page: int = 0


class RerankInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What is put into another order."""

    query: str
    hits: list[Found]
    by: Literal["words", "model"] = "words"
    limit: int = 3
    model: Model | None = None


# -- models ----------------------------------------------------------------------------------------


def chat_provider(model: Model) -> ChatProvider:
    """Return the provider that *model* names."""
    if model.provider == "scripted":
        script = model.script

        def answer(request: ChatRequest) -> ChatReply | ProviderError | str:
            place = sum(message.role == "assistant" for message in request.messages)
            if place < len(script):
                return script[place]
            return ProviderError("refused", "the script is at its end", retryable=False)

        return Scripted(answer)
    if model.provider == "anthropic":
        return Anthropic(base_url=model.base_url, api_key=model.api_key)
    return OpenAI(base_url=model.base_url, api_key=model.api_key)


def embedding_provider(embedding: Embedding) -> EmbeddingProvider:
    """Return the provider that *embedding* names."""
    if embedding.provider == HASH:
        return HashEmbeddings()
    return OpenAI(base_url=embedding.base_url, api_key=embedding.api_key)


@contextmanager
def _as_step_errors() -> Generator[None]:
    try:
        yield
    except ProviderError as error:
        raise HandlerError(error.type, error.message, error.retryable) from error


async def _asked(ctx: Context, model: Model, request: ChatRequest) -> ChatReply:
    """Ask, and note which model has decided."""
    provider = chat_provider(model)
    with _as_step_errors():
        reply = await provider.chat(request)
    ctx.note_evidence(
        provider=provider.name,
        model=request.model,
        answered_by=reply.model,
        parameters=parameters_of(request),
        usage=msgspec.to_builtins(reply.usage),
        request=hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest(),
        answer=reply.id,
    )
    return reply


async def _embedded(ctx: Context, texts: Sequence[str], embedding: Embedding) -> list[list[float]]:
    provider = embedding_provider(embedding)
    vectors: list[list[float]] = []
    for first in range(0, len(texts), EMBED_BATCH):
        with _as_step_errors():
            batch = texts[first : first + EMBED_BATCH]
            vectors += await provider.embed(batch, model=embedding.model)
        ctx.heartbeat({"embedded": len(vectors)})
    ctx.note_evidence(embedding={"provider": provider.name, "model": embedding.model})
    return vectors


@handler("ai/chat", version="1", outputs=ChatReply)
async def chat(ctx: Context, inputs: ChatInputs) -> ChatReply:
    """Ask a model."""
    messages = list(inputs.messages)
    if inputs.prompt:
        based = "\n\n".join(map(_passage, inputs.context))
        prompt = f"{based}\n\n{inputs.prompt}" if based else inputs.prompt
        messages.append(Message("user", prompt))
    if not messages:
        raise HandlerError("invalid-input", "`prompt` or `messages` is needed", retryable=False)
    request = ChatRequest(
        model=inputs.model,
        messages=messages,
        system=inputs.system,
        tools=inputs.tools,
        temperature=inputs.temperature,
        max_tokens=inputs.max_tokens,
        extra=inputs.extra,
    )
    if inputs.context:
        sources = [hit.get("source", "") for hit in inputs.context if isinstance(hit, dict)]
        ctx.note_evidence(sources=sources)
    return await _asked(ctx, inputs, request)


def _passage(hit: Any) -> str:
    if not isinstance(hit, dict):
        return str(hit)
    return f"[{hit.get('source', '')}]\n{hit.get('text', '')}"


@handler("ai/embed", version="1")
async def embed(ctx: Context, inputs: EmbedInputs) -> dict[str, Any]:
    """Turn texts into vectors."""
    vectors = await _embedded(ctx, inputs.texts, inputs)
    return {"vectors": vectors, "dimensions": len(vectors[0]) if vectors else 0}


# -- retrieval -------------------------------------------------------------------------------------


def _with_heading(part: Chunk | Found) -> str:
    """Return a part as it is compared: what it is about stands in its headings."""
    return f"{part.heading}\n{part.text}" if part.heading else part.text


@handler("rag/load", version="1")
def load_documents(ctx: Context, inputs: LoadInputs) -> dict[str, Any]:
    """Read text, markdown, HTML and PDF files."""
    patterns = [inputs.path] if isinstance(inputs.path, str) else inputs.path
    documents: list[Document] = []
    for pattern in patterns:
        paths = [ctx.workspace / pattern]
        if "*" in pattern:
            rooted = pattern.startswith("/")
            root = paths[0].root if rooted else ctx.workspace
            paths = sorted(Path(root).glob(pattern.lstrip("/")))
        for path in paths:
            inside = path.is_relative_to(ctx.workspace)
            source = str(path.relative_to(ctx.workspace)) if inside else str(path)
            documents += load(path, source, inputs.kind)
    if not documents:
        raise HandlerError("not-found", f"nothing matches {inputs.path}", retryable=False)
    digests = {document.source: document.digest for document in documents}
    ctx.note_evidence(sources=digests)
    return {"documents": documents, "sources": list(digests)}


@handler("rag/split", version="1")
async def split(ctx: Context, inputs: SplitInputs) -> dict[str, Any]:
    """Cut documents into chunks."""
    if inputs.size < 1 or not 0 <= inputs.overlap < inputs.size:
        raise HandlerError("invalid-input", "size above overlap, both at least 0", retryable=False)
    chunks: list[Chunk] = []
    positions: dict[str, int] = {}
    for document in inputs.documents:
        if inputs.by == "tokens":
            cut = by_tokens(document.text, size=inputs.size, overlap=inputs.overlap)
            pieces = [("", text) for text in cut]
        elif inputs.by == "meaning":
            parts = sentences(document.text)
            vectors = await _embedded(ctx, parts, inputs.embedding)
            joined = by_meaning(parts, vectors, threshold=inputs.threshold, size=inputs.size)
            pieces = [("", text) for text in joined]
        else:
            pieces = [
                (heading, text)
                for heading, section in by_structure(document.text)
                for text in packed(section.split("\n\n"), size=inputs.size)
            ]
        first = positions.get(document.source, 0)
        chunks += chunks_of(document, pieces, first)
        positions[document.source] = first + len(pieces)
    return {"chunks": chunks, "count": len(chunks)}


@handler("rag/index", version="1")
async def index(ctx: Context, inputs: IndexInputs) -> dict[str, Any]:
    """Store chunks with their vectors; the same ones again change nothing."""
    import asyncio

    vectors = inputs.vectors
    if vectors is None:
        vectors = await _embedded(
            ctx, [_with_heading(chunk) for chunk in inputs.chunks], inputs.embedding
        )
    store = VectorIndex(ctx.workspace / inputs.database)
    count = await asyncio.to_thread(
        store.add,
        inputs.collection,
        inputs.chunks,
        vectors,
        model=inputs.embedding.model,
        replace=inputs.replace,
    )
    ctx.note_evidence(chunks=[chunk.id for chunk in inputs.chunks])
    return {"stored": len(inputs.chunks), "count": count}


@handler("rag/retrieve", version="1")
async def retrieve(ctx: Context, inputs: RetrieveInputs) -> dict[str, Any]:
    """Find the chunks nearest to a question."""
    import asyncio

    (vector,) = await _embedded(ctx, [inputs.query], inputs.embedding)
    store = VectorIndex(ctx.workspace / inputs.database)
    hits = await asyncio.to_thread(
        store.search,
        inputs.collection,
        vector,
        model=inputs.embedding.model,
        limit=inputs.limit,
        sources=inputs.sources,
        at_least=inputs.at_least,
    )
    found = [
        Found(h.chunk.id, h.chunk.source, h.chunk.text, h.score, h.chunk.heading, h.chunk.page)
        for h in hits
    ]
    ctx.note_evidence(found={hit.id: hit.score for hit in found})
    return {"hits": found, "count": len(found)}


@handler("rag/rerank", version="1")
async def rerank(ctx: Context, inputs: RerankInputs) -> dict[str, Any]:
    """Put hits into a better order, by their words or by a model."""
    texts = [_with_heading(hit) for hit in inputs.hits]
    if inputs.by == "words":
        scores = ranking.bm25(inputs.query, texts)
        order = sorted(range(len(texts)), key=lambda place: -scores[place])
    elif inputs.model is None:
        raise HandlerError("invalid-input", "`by: model` needs `model`", retryable=False)
    elif not texts:
        order = []
    else:
        request = ChatRequest(
            model=inputs.model.model,
            messages=[Message("user", ranking.asked(inputs.query, texts))],
            temperature=inputs.model.temperature,
            max_tokens=inputs.model.max_tokens,
            extra=inputs.model.extra,
        )
        reply = await _asked(ctx, inputs.model, request)
        with _as_step_errors():
            order = ranking.answered(reply.text, len(texts))
    kept = [inputs.hits[place] for place in order[: inputs.limit]]
    ctx.note_evidence(order=[hit.id for hit in kept])
    return {"hits": kept, "count": len(kept)}


class _App(msgspec.Struct, frozen=True):
    """What `--app` looks for."""

    handlers: dict[str, Any]


app = _App(
    {
        "ai/chat": chat,
        "ai/embed": embed,
        "rag/load": load_documents,
        "rag/split": split,
        "rag/index": index,
        "rag/retrieve": retrieve,
        "rag/rerank": rerank,
    }
)
