"""Parts of a page that a command writes: what stands between two marks is replaced."""

from __future__ import annotations

from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def splice(page: Path, name: str, part: str) -> None:
    """Put *part* between ``<!-- name: … -->`` and ``<!-- /name -->`` of *page*.

    Raises `ValueError` when the marks are not there.
    """
    text = page.read_text()
    begin = text.index("-->", text.index(f"<!-- {name}:")) + len("-->")
    end = text.index(f"<!-- /{name} -->", begin)
    page.write_text(f"{text[:begin]}\n{part.strip()}\n{text[end:]}")
