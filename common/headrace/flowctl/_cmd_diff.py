"""`flowctl diff`: what differs between two runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._output import colourful, emit, now_ms
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import pass_settings, run_client, shared_options
from headrace.flowctl._text import duration, one_line, plain, table

if TYPE_CHECKING:
    from headrace.client import Client, Comparison, Difference

EXIT_DIFFERENT = 1
HEADER = ["WHAT", "PATH", "KEY", "LEFT", "RIGHT"]
WIDTH = 40
"""Of a value in the table; `-o wide` shows more of it."""
WIDTH_WIDE = 1_000


@click.command()
@click.argument("left", metavar="RUN")
@click.argument("right", metavar="RUN")
@shared_options
@pass_settings
def diff(settings: Settings, left: str, right: str) -> int:
    """Show what differs between two runs, open or ended.

    Compared are the definition (nodes, and what each says), the input, the labels, and of the run
    and of each step: state, attempt, outputs, error, annotations. Large values are fetched. How
    long steps took is shown beside it, and is no difference; ids, times and workers are not
    compared.

    Exit codes, as `diff` has them: 0 the same, 1 something differs. What goes wrong has the codes
    of all commands: 3 usage, 4 no such run, 5 the cluster cannot be reached. 2 is never used.

    \b
    Examples:
      flowctl diff 01k3x… 01k4b…
      flowctl diff 01k3x… 01k4b… -o json
    """
    from headrace.client import compare

    async def action(client: Client) -> Comparison:
        views = [await client.whole(await client.get(run)) for run in (left, right)]
        plans = await client.plan(left), await client.plan(right)
        return compare(views[0], views[1], plans, now_ms=now_ms())

    found = run_client(settings, action)
    colour = colourful(sys.stdout)
    emit(
        settings,
        _json(found),
        lines=lambda wide: _lines(found, wide=wide, colour=colour),
        names=dict.fromkeys(f"{d.what}:{d.path}" if d.path else d.what for d in found.differences),
    )
    return EXIT_DIFFERENT if found.differences else 0


def _json(found: Comparison) -> dict[str, Any]:
    return {
        "left": found.left.id,
        "right": found.right.id,
        "same": not found.differences,
        "differences": [_difference_json(difference) for difference in found.differences],
        "durations": [
            {"path": length.path, "left_ms": length.left_ms, "right_ms": length.right_ms}
            for length in found.durations
        ],
    }


def _difference_json(found: Difference) -> dict[str, Any]:
    shown = {
        "what": found.what,
        "path": found.path,
        "key": found.key,
        "change": found.change,
    }
    sides = {"left": found.left, "right": found.right}
    absent = {"added": "left", "removed": "right"}.get(found.change)
    return shown | {side: value for side, value in sides.items() if side != absent}


def _lines(found: Comparison, *, wide: bool, colour: bool) -> list[str]:
    left, right = found.left.id, found.right.id
    if not found.differences:
        lines = [f"no difference between {left} and {right}"]
    else:
        header = [*HEADER[:3], f"LEFT {left}", f"RIGHT {right}"]
        lines = table(header, [_row(d, wide=wide) for d in found.differences], colour=colour)
    rows = [
        [plain(length.path) or "(run)", _length(length.left_ms), _length(length.right_ms)]
        for length in found.durations
        if wide or length.left_ms != length.right_ms
    ]
    return [*lines, "", *table(["STEP", "TOOK LEFT", "RIGHT"], rows)] if rows else lines


def _row(found: Difference, *, wide: bool) -> list[str]:
    width = WIDTH_WIDE if wide else WIDTH
    left = "-" if found.change == "added" else _shown(found.left, width)
    right = "-" if found.change == "removed" else _shown(found.right, width)
    return [found.what, plain(found.path) or "-", plain(found.key) or "-", left, right]


def _shown(value: Any, width: int) -> str:
    import msgspec

    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return one_line(text, width) or '""'


def _length(length_ms: int | None) -> str:
    return "-" if length_ms is None else duration(length_ms)
