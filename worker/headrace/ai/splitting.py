"""Texts to chunks: by structure, by meaning, by a number of tokens. Pure, but for embeddings.

A chunk's id is the digest of where it stands and what it says, so the same text twice is one
entry of an index. Tokens are words and marks, as a stand-in for those of a model, of which each
has its own.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from headrace.ai.documents import Document

_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_HEADING: Final = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*$")
_FENCE: Final = re.compile(r"\s*(```|~~~)")
_SENTENCE: Final = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n{2,}")


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a document."""

    id: str
    source: str
    text: str
    position: int
    """Number of the chunk in its source, from 0."""
    heading: str = ""
    """Headings above it, from the outermost: ``Guide > Install``."""
    page: int = 0


def tokens(text: str) -> int:
    """Return how many words and marks *text* has."""
    return sum(1 for _ in _TOKEN.finditer(text))


def by_tokens(text: str, *, size: int, overlap: int = 0) -> list[str]:
    """Return windows of *size* tokens; each begins *overlap* tokens before the last one's end."""
    found = [match.span() for match in _TOKEN.finditer(text)]
    step = size - overlap
    return [
        text[found[first][0] : found[min(first + size, len(found)) - 1][1]]
        for first in range(0, max(len(found) - overlap, 1 if found else 0), step)
    ]


def by_structure(text: str) -> list[tuple[str, str]]:
    """Return (headings above, section) for each section of a markdown text."""
    found: list[tuple[str, str]] = []
    above: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False

    def close() -> None:
        body = "\n".join(lines).strip()
        if body:
            found.append((" > ".join(title for _, title in above), body))
        lines.clear()

    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        close()
        level = len(heading[1])
        above = [entry for entry in above if entry[0] < level] + [(level, heading[2])]
    close()
    return found


def sentences(text: str) -> list[str]:
    """Return the sentences and paragraphs of a text."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def by_meaning(
    parts: Sequence[str], vectors: Sequence[Sequence[float]], *, threshold: float, size: int
) -> list[str]:
    """Join sentences that follow each other while each is near what came before it.

    A new chunk begins where the cosine of a sentence and the mean of the chunk is below
    *threshold*, or the chunk would have more than *size* tokens.
    """
    found: list[list[str]] = []
    mean: list[float] = []
    for part, vector in zip(parts, vectors, strict=True):
        full = bool(found) and tokens(" ".join([*found[-1], part])) > size
        if not found or full or cosine(mean, vector) < threshold:
            found.append([part])
            mean = list(vector)
        else:
            found[-1].append(part)
            mean = [a + b for a, b in zip(mean, vector, strict=True)]
    return [" ".join(group) for group in found]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine of two vectors; 0 for one of length 0."""
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def packed(parts: Iterator[Any] | Sequence[Any], *, size: int) -> Iterator[str]:
    """Join paragraphs as long as they fit into *size* tokens; longer ones are cut by tokens."""
    held: list[str] = []
    for part in parts:
        if held and tokens("\n\n".join([*held, part])) > size:
            yield "\n\n".join(held)
            held = []
        if tokens(part) > size:
            yield from by_tokens(part, size=size)
        else:
            held.append(part)
    if held:
        yield "\n\n".join(held)


def chunks_of(document: Document, pieces: Sequence[tuple[str, str]], first: int) -> list[Chunk]:
    """Return (heading, text) pieces of a document as chunks, numbered from *first*."""
    made = []
    for position, (heading, text) in enumerate(pieces, first):
        place = f"{document.source}\0{position}\0{heading}\0{text}"
        identity = hashlib.sha256(place.encode()).hexdigest()[:24]
        made.append(Chunk(identity, document.source, text, position, heading, document.page))
    return made
