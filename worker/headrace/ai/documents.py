"""Files to text, with where each part of it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from headrace.worker.handlers import HandlerError

BYTES_MAX: Final = 64 * 1024 * 1024


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """One source, or one page of it."""

    source: str
    """As it was named."""
    text: str
    kind: str = "text"
    """`text`, `markdown`, `html` or `pdf`."""
    page: int = 0
    """From 1; 0: it has no pages."""
    digest: str = ""
    """SHA-256 of the file."""


def load(path: Path, source: str, kind: str = "") -> list[Document]:
    """Return what a file says; a PDF page by page. Without *kind* its name decides.

    Raises `HandlerError`.
    """
    kind = kind or KINDS.get(path.suffix.lower(), "text")
    if kind not in _READERS:
        known = ", ".join(_READERS)
        raise HandlerError("invalid-input", f"kind is one of {known}, not {kind!r}", False)
    try:
        if path.stat().st_size > BYTES_MAX:
            text = f"{source} has more than {BYTES_MAX} bytes"
            raise HandlerError("too-large", text, retryable=False)
        data = path.read_bytes()
    except OSError as error:
        raise HandlerError("not-readable", f"{source}: {error.strerror}", False) from error
    digest = hashlib.sha256(data).hexdigest()
    pages = _READERS[kind](data, source)
    numbered = len(pages) > 1 or kind == "pdf"
    return [
        Document(source, text, kind, number if numbered else 0, digest)
        for number, text in enumerate(pages, 1)
    ]


def _text(data: bytes, source: str) -> list[str]:
    try:
        return [data.decode("utf-8-sig")]
    except UnicodeDecodeError as error:
        raise HandlerError("not-readable", f"{source} is no UTF-8: {error}", False) from error


def _html(data: bytes, source: str) -> list[str]:
    """Return the text that a reader sees, headings marked as in markdown."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "html.parser")
    for hidden in soup(["script", "style", "noscript", "template"]):
        hidden.decompose()
    for level in range(1, 7):
        for heading in soup.find_all(f"h{level}"):
            heading.replace_with(f"\n\n{'#' * level} {heading.get_text(' ', strip=True)}\n\n")
    for block in soup.find_all(["p", "li", "tr", "div", "br", "pre"]):
        block.append("\n")
    lines = [" ".join(line.split()) for line in soup.get_text().splitlines()]
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return [text.strip()]


def _pdf(data: bytes, source: str) -> list[str]:
    import io

    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        return [page.extract_text() for page in PdfReader(io.BytesIO(data)).pages]
    except (PyPdfError, ValueError, KeyError, TypeError) as error:
        raise HandlerError("not-readable", f"{source} is no PDF: {error}", False) from error


KINDS: Final = {
    ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".pdf": "pdf",
}  # fmt: skip
_READERS: Final[dict[str, Callable[[bytes, str], list[str]]]] = {
    "text": _text,
    "markdown": _text,
    "html": _html,
    "pdf": _pdf,
}
