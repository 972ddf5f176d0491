"""Parts of a page that a command writes: what stands between two marks is replaced."""

from __future__ import annotations

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def spliced(text: str, name: str, part: str) -> str:
    """Return *text* with *part* between ``<!-- name: … -->`` and ``<!-- /name -->``.

    Raises `ValueError` when the marks are not there.
    """
    before, begin, rest = text.partition(f"<!-- {name}:")
    says, closes, rest = rest.partition("-->")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and closes and end):
        raise ValueError(f"no marks <!-- {name}: … --> and <!-- /{name} --> in the page")
    return f"{before}{begin}{says}{closes}\n{part.strip()}\n{end}{after}"


def splice(page: Path, name: str, part: str) -> None:
    """Write *part* into *page*; see `spliced`."""
    page.write_text(spliced(page.read_text("utf-8"), name, part), "utf-8")
