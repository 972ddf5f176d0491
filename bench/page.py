"""Parts of a page that a command writes: what stands between two marks, and pictures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

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


def draw(plots: str, document: Mapping[str, Any], picture: Path) -> None:
    """Draw *document* into *picture*, a file or folder, by ``draw`` of the module *plots*.

    Without matplotlib what was drawn before stays, which is said on stderr.
    """
    try:
        found = import_module(plots)
    except ImportError:
        print("no matplotlib here (extra `bench`): pictures stay as they were", file=sys.stderr)
    else:
        found.draw(document, picture)
