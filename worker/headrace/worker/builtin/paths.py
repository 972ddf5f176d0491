"""Paths and templates that steps write."""

from __future__ import annotations

import datetime
from pathlib import Path

from headrace.messages import subjects
from headrace.worker.handlers import Context, HandlerError


def workspace_path(ctx: Context, path: str) -> Path:
    """Return *path*, in the workspace where it is relative. Raises `HandlerError`."""
    if not path or "\x00" in path:
        raise HandlerError("invalid-input", f"{path!r} is no path", False)
    return ctx.workspace / Path(path).expanduser()


def filled_in(ctx: Context, template: str, *, name: str = "") -> str:
    """Return *template* with ``{date}`` and its like replaced, in UTC; other braces stay."""
    now = datetime.datetime.now(tz=datetime.UTC)
    options = ctx.task.options
    values = {
        "{date}": now.strftime("%Y-%m-%d"),
        "{time}": now.strftime("%H%M%S"),
        "{datetime}": now.strftime("%Y%m%dT%H%M%SZ"),
        "{year}": now.strftime("%Y"),
        "{month}": now.strftime("%m"),
        "{day}": now.strftime("%d"),
        "{run}": subjects.split_key(ctx.run)[1],
        "{workflow}": options.workflow if options is not None else "",
        "{name}": name,
    }
    for mark, value in values.items():
        template = template.replace(mark, value)
    return template


def trouble(error: OSError) -> HandlerError:
    """Return what a step says of *error*; a file that is not there will not be there next time."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    kind = "not-found" if missing else type(error).__name__
    return HandlerError(kind, f"{error.filename or ''}: {error.strerror or error}", not missing)
