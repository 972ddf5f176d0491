"""Loading, cutting, indexing, finding and ranking."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ai import HashEmbeddings, ProviderError, ranking
from headrace.ai.documents import Document, load
from headrace.ai.index import VectorIndex
from headrace.ai.splitting import (
    by_meaning,
    by_structure,
    by_tokens,
    chunks_of,
    packed,
    sentences,
    tokens,
)
from headrace.worker.handlers import HandlerError

GUIDE = """\
before
# Guide
intro
## Install
pip
```
# no heading
```
## Use
### Deep
words
# Other
end
"""


def test_structure_knows_the_headings_above() -> None:
    assert by_structure(GUIDE) == [
        ("", "before"),
        ("Guide", "intro"),
        ("Guide > Install", "pip\n```\n# no heading\n```"),
        ("Guide > Use > Deep", "words"),
        ("Other", "end"),
    ]


@given(
    words=st.lists(st.sampled_from(["ab", "cd", "ef.", "gh,", "i"]), max_size=40),
    size=st.integers(1, 9),
    overlap=st.integers(0, 8),
)
def test_windows_cover_each_token(words: list[str], size: int, overlap: int) -> None:
    if overlap >= size:
        return
    text = " ".join(words)
    windows = by_tokens(text, size=size, overlap=overlap)
    assert all(0 < tokens(window) <= size for window in windows)
    step = size - overlap
    total = tokens(text)
    covered = sum(tokens(w) for w in windows) - overlap * max(len(windows) - 1, 0)
    assert covered == total
    assert len(windows) == (0 if not total else max(-(-(total - overlap) // step), 1))


def test_paragraphs_are_joined_as_they_fit() -> None:
    assert list(packed(["a b", "c", "d e f g h", "i"], size=3)) == ["a b\n\nc", "d e f", "g h", "i"]


def test_meaning_breaks_where_the_subject_changes() -> None:
    parts = sentences("Cats purr. Cats sleep. Logs grow! Logs need room.")
    assert parts == ["Cats purr.", "Cats sleep.", "Logs grow!", "Logs need room."]
    vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    assert by_meaning(parts, vectors, threshold=0.5, size=100) == [
        "Cats purr. Cats sleep.",
        "Logs grow! Logs need room.",
    ]
    assert len(by_meaning(parts, [[1.0, 0.0]] * 4, threshold=0.5, size=3)) == 4


def pdf(text: str) -> bytes:
    """Return a PDF of one page that says *text*."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 6\n0000000000 65535 f \n")
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    out.write(b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def test_files_are_loaded_by_their_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ä plain")
    (tmp_path / "b.html").write_text(
        "<title>x</title><h2>Head</h2><p>One <b>two</b></p><script>no()</script><p>three</p>"
    )
    (tmp_path / "c.pdf").write_bytes(pdf("Hello page"))
    (plain,) = load(tmp_path / "a.txt", "a.txt")
    assert (plain.text, plain.kind, len(plain.digest)) == ("Ä plain", "text", 64)
    (html,) = load(tmp_path / "b.html", "b.html")
    assert "## Head" in html.text
    assert "One two" in html.text
    assert "no()" not in html.text
    (page,) = load(tmp_path / "c.pdf", "c.pdf")
    assert (page.text.strip(), page.page, page.kind) == ("Hello page", 1, "pdf")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.pdf").write_bytes(b"no pdf")
    for name, kind in (("bad.txt", ""), ("bad.pdf", ""), ("gone.md", ""), ("bad.txt", "word")):
        with pytest.raises(HandlerError) as caught:
            load(tmp_path / name, name, kind)
        assert not caught.value.retryable


async def test_an_index_finds_what_is_near_and_takes_things_twice(tmp_path: Path) -> None:
    texts = ["red apple pie", "the log is on disk", "apples and pears"]
    document = Document("book.md", "")
    chunks = chunks_of(document, [("", text) for text in texts], 0)
    vectors = await HashEmbeddings().embed(texts)
    index = VectorIndex(tmp_path / "index.db")
    (wanted,) = await HashEmbeddings().embed(["apple pie"])
    assert index.search("c", wanted, model="hash", limit=2) == []
    for _ in range(2):
        assert index.add("c", chunks, vectors, model="hash", replace=False) == 3
    best, second = index.search("c", wanted, model="hash", limit=2)
    assert best.chunk == chunks[0]
    assert 1 > best.score > second.score
    assert index.search("c", wanted, model="hash", limit=9, sources=["other.md"]) == []
    assert len(index.search("c", wanted, model="hash", limit=9, at_least=0.5)) == 1
    # The source as it is now: what it said before goes.
    assert index.add("c", chunks[:1], vectors[:1], model="hash", replace=True) == 1
    with pytest.raises(HandlerError, match="has vectors of hash"):
        index.add("c", chunks, [[1.0]] * 3, model="other")
    with pytest.raises(HandlerError, match="3 chunks and 1 vectors"):
        index.add("c", chunks, vectors[:1], model="hash")


def test_a_file_that_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"no database at all, but long enough to be one" * 40)
    with pytest.raises(HandlerError) as caught:
        VectorIndex(tmp_path / "index.db").search("c", [1.0], model="m", limit=1)
    assert (caught.value.type, caught.value.retryable) == ("index", False)


def test_words_that_are_rare_count_more() -> None:
    texts = ["the the the", "the parcel", "the card and the money"]
    scores = ranking.bm25("the parcel", texts)
    assert max(range(3), key=scores.__getitem__) == 1
    assert ranking.bm25("x", []) == []
    assert ranking.bm25("x", ["", ""]) == [0.0, 0.0]


def test_a_model_names_places() -> None:
    assert ranking.answered("3, 1 and 3, not 9", 3) == [2, 0]
    with pytest.raises(ProviderError):
        ranking.answered("none", 3)
