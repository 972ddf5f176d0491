"""Puts what was found into a better order."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from headrace.ai.chat import ProviderError

_WORD: Final = re.compile(r"\w+")
_NUMBER: Final = re.compile(r"\d+")
K1: Final = 1.5
B: Final = 0.75


def bm25(query: str, texts: Sequence[str]) -> list[float]:
    """Return a score for each text: BM25 over these texts alone.

    Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009).
    """
    bags = [Counter(_words(text)) for text in texts]
    mean = sum(sum(bag.values()) for bag in bags) / len(bags) if bags else 0.0
    wanted = set(_words(query))
    rarity = {
        word: math.log(1 + (len(bags) - n + 0.5) / (n + 0.5))
        for word in wanted
        if (n := sum(word in bag for bag in bags))
    }
    scores = []
    for bag in bags:
        size = sum(bag.values())
        scores.append(
            sum(
                weight * bag[word] * (K1 + 1) / (bag[word] + K1 * (1 - B + B * size / mean))
                for word, weight in rarity.items()
                if bag[word]
            )
        )
    return scores


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def asked(query: str, texts: Sequence[str], *, chars: int = 1_500) -> str:
    """Return what a model is asked, to put *texts* in order."""
    listed = "\n\n".join(f"[{n}]\n{text[:chars]}" for n, text in enumerate(texts, 1))
    return (
        f"Which of these passages answer the question best?\n\nQuestion: {query}\n\n{listed}\n\n"
        "Answer with their numbers only, the best first, separated by commas. "
        "Leave out those that do not help."
    )


def answered(text: str, count: int) -> list[int]:
    """Return the places (from 0) that a model has named, in its order, each once.

    Raises `ProviderError` when it has named none.
    """
    found = [int(number) - 1 for number in _NUMBER.findall(text)]
    places = list(dict.fromkeys(place for place in found if 0 <= place < count))
    if not places:
        told = f"the model has named no passage: {text[:200]!r}"
        raise ProviderError("invalid-answer", told, retryable=True)
    return places
