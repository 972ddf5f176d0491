"""What `--watch` shows on stderr: a live picture on a terminal, else one line for each change."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from typing import TextIO

from headrace.client import ENDED
from headrace.errors import Unreachable
from headrace.flowctl._output import colourful, now_ms
from headrace.flowctl._text import duration, one_line, paint, plain, span
from headrace.flowctl._views import annotation_lines, counted_steps, state_text, telling_steps
from headrace.messages import RunView, StepView

REPAINT_S = 0.25


def picture(run: RunView, now: int, *, width: int, height: int, colour: bool) -> list[str]:
    """Return at most *height* lines of at most *width* visible characters. Pure."""
    head = f"{run.id}  {plain(run.workflow)}  {state_text(run)}"
    head += f"  {span(run.started_ms, run.finished_ms, now)}"
    lines = [paint(run.state, colour=colour, text=_cut(head, width))]
    if run.reason:
        lines.append(_cut(f"  {one_line(run.reason, width)}", width))
    room = max(height - len(lines) - 1, 1)
    steps, footer = telling_steps(run.steps, room), []
    if len(steps) < len(run.steps):
        footer = [_cut(f"  … {counted_steps(run.steps)}", width)]
    name_width = min(max((len(step.path) for step in steps), default=0), max(width // 2, 10))
    for step in steps:
        text = _cut(_step_text(step, now, name_width), width)
        lines.append(paint(step.state, colour=colour, text=text))
    return lines + footer


def _step_text(step: StepView, now: int, name_width: int) -> str:
    depth = plain(step.path)
    name = depth if len(depth) <= name_width else "…" + depth[-(name_width - 1) :]
    text = f"  {name.ljust(name_width)}  {step.state.ljust(10)}"
    text += f"  {span(step.started_ms, step.finished_ms, now):>7}"
    if step.attempt > 1:
        text += f"  attempt {step.attempt}"
    reason = step.error or step.reason
    return f"{text}  {one_line(reason)}" if reason else text.rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 1)] + "…"


def change_lines(before: RunView | None, run: RunView) -> list[str]:
    """Return one line for each step, and for the run, that changed its state or attempt. Pure."""
    old = {step.path: (step.state, step.attempt) for step in before.steps} if before else {}
    lines: list[str] = []
    for step in run.steps:
        if old.get(step.path) == (step.state, step.attempt) or step.state == "PENDING":
            continue
        text = f"{plain(step.path)} {step.state}"
        if step.attempt > 1:
            text += f" (attempt {step.attempt})"
        if step.started_ms and step.finished_ms:
            text += f" in {duration(step.finished_ms - step.started_ms)}"
        reason = step.error or step.reason
        lines.append(f"{text}: {one_line(reason)}" if reason else text)
        if step.finished_ms:
            lines += [f"  {note}" for note in annotation_lines(step)]
    if before is None or state_text(before) != state_text(run):
        text = f"run {run.id} {state_text(run)}"
        if run.state in ENDED and run.started_ms:
            text += f" in {duration(run.finished_ms - run.started_ms)}"
        text = f"{text}: {one_line(run.reason)}" if run.reason else text
        # Whoever reads on wants to know first which run it is, and last how it has ended.
        lines.insert(0 if before is None and run.state not in ENDED else len(lines), text)
    return lines


class Progress:
    """Shows views of one run on *stream* until the run has ended."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = colourful(self._stream)
        self._painted = 0
        self._last: RunView | None = None

    async def follow(self, views: AsyncIterator[RunView]) -> RunView:
        """Show each view as it comes; return the last. Raises what *views* raises."""
        painter = asyncio.create_task(self._repaint(), name="live-view") if self._live else None
        try:
            async for view in views:
                self._show(view)
        finally:
            if painter is not None:
                painter.cancel()
                await asyncio.gather(painter, return_exceptions=True)
        if self._last is None:
            raise Unreachable("the run was never seen")
        return self._last

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._wipe()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _show(self, view: RunView) -> None:
        before, self._last = self._last, view
        if self._live:
            self._paint()
            return
        for line in change_lines(before, view):
            self._stream.write(f"{line}\n")
        self._stream.flush()

    async def _repaint(self) -> None:
        while True:
            await asyncio.sleep(REPAINT_S)
            self._paint()

    def _paint(self) -> None:
        if self._last is None:
            return
        size = shutil.get_terminal_size()
        lines = picture(
            self._last,
            now_ms(),
            width=max(size.columns - 1, 20),
            height=max(size.lines - 1, 3),
            colour=self._colour,
        )
        up = f"\x1b[{self._painted}A" if self._painted else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        # What the last picture had more is wiped.
        self._stream.write(f"{up}{body}\x1b[J")
        self._stream.flush()
        self._painted = len(lines)

    def _wipe(self) -> None:
        if self._painted:
            self._stream.write(f"\x1b[{self._painted}A\x1b[J")
            self._painted = 0
