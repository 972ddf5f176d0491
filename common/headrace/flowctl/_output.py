"""Prints results on stdout, nothing else there: tables for people, JSON or YAML for programs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

import click

from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note

if TYPE_CHECKING:
    from headrace.messages import RunView

STEPS_SHOWN_MAX = 200
"""A run of more steps is a table that nobody reads on a terminal."""
EXIT_CODES = {"FAILED": 1, "CANCELLED": 2}


def emit(
    settings: Settings,
    data: Any,
    *,
    lines: Callable[[bool], Iterable[str]],
    names: Iterable[str] = (),
    nothing: str = "",
) -> None:
    """Print one result in the chosen format.

    *data* is plain JSON; *lines* gives the lines for people, wide ones if its argument is true;
    *names* are the ids. *nothing* is for a list: what to tell, beside the result, if it is empty.
    """
    if nothing and not data:
        note(nothing)
        lines = _no_lines
    chosen = settings.format
    if chosen == "json":
        click.echo(as_json(data))
    elif chosen == "yaml":
        click.echo(as_yaml(data), nl=False)
    elif chosen == "name":
        for name in names:
            click.echo(name)
    else:
        for line in lines(chosen == "wide"):
            click.echo(line, color=True if colourful(sys.stdout) else None)


def _no_lines(_wide: bool) -> list[str]:
    return []


def emit_run(settings: Settings, run: RunView) -> None:
    """Print one run."""
    from headrace.flowctl._views import run_json, run_lines

    colour, terminal = colourful(sys.stdout), sys.stdout.isatty()

    def lines(wide: bool) -> list[str]:
        few = STEPS_SHOWN_MAX if terminal and not wide else None
        return run_lines(run, now_ms(), wide=wide, colour=colour, steps_max=few)

    emit(
        settings,
        run_json(run),
        lines=lines,
        names=[run.id],
    )


def exit_code_of(state: str) -> int:
    """Return what `--wait` and `--watch` exit with: 0 completed, 1 failed, 2 cancelled."""
    return EXIT_CODES.get(state, 0)


def as_json(data: Any) -> str:
    """Return *data* as indented JSON; bytes become base64."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def as_yaml(data: Any) -> str:
    """Return *data* as YAML, keys in their order."""
    import msgspec
    import yaml

    plain = msgspec.to_builtins(data, str_keys=True)
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def colourful(stream: TextIO) -> bool:
    """Tell whether to use colours: on a terminal, unless `NO_COLOR` is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def now_ms() -> int:
    """Return the time, in ms since the epoch."""
    return int(time.time() * 1000)
