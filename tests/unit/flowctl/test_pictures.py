"""Text for people."""

import io

import pytest

from headrace.errors import InvalidRequest
from headrace.flowctl._live import Progress, change_lines, picture
from headrace.flowctl._text import (
    duration,
    one_line,
    parse_duration,
    parse_since,
    plain,
    rfc3339,
    table,
)
from headrace.flowctl._views import run_lines
from headrace.messages import RunView, StepView


def run(state="RUNNING", *steps, **fields):
    return RunView(
        id="r1", workflow="w", state=state, started_ms=1_000, steps=list(steps), **fields
    )


def test_times():
    assert rfc3339(0) is None
    assert rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(
    ("length_ms", "text"),
    [(-5, "0ms"), (999, "999ms"), (12_345, "12.3s"), (245_000, "4m05s"), (7_800_000, "2h10m")],
)
def test_durations(length_ms, text):
    assert duration(length_ms) == text


def test_durations_are_read():
    assert parse_duration("1h30m") == 5_400_000
    assert parse_duration("1.5s") == 1_500
    for text in ("", "h", "1", "1x", "1h 2m", "-1h"):
        with pytest.raises(InvalidRequest):
            parse_duration(text)
    assert parse_since("1h", 3_600_001) == 1
    assert parse_since("1970-01-01T00:00:05Z", 0) == 5_000
    assert parse_since("1970-01-01T00:00:05", 0) == 5_000
    assert parse_since("1970-01-01T02:00:05+02:00", 0) == 5_000


def test_what_steps_wrote_drives_no_terminal():
    assert plain("a\x1b[2J\x1b]0;title\x07b\x9b1m") == "a]0;titleb1m"
    assert one_line("a\n\n b\t c") == "a b c"
    assert one_line("x" * 20, 5) == "xxxx…"


def test_a_table_is_aligned():
    assert table(["A", "LONG"], [["1234", "x"], ["1", "y"]]) == [
        "A     LONG",
        "1234  x",
        "1     y",
    ]
    assert "\x1b[31mFAILED" in table(["S", "T"], [["FAILED", "x"]], colour=True)[1]


def test_the_picture_shows_steps_with_state_duration_attempt():
    view = run(
        "RUNNING",
        StepView(path="build/test", state="RUNNING", attempt=2, started_ms=2_000),
        StepView(path="b", state="PENDING"),
    )
    lines = picture(view, 4_500, width=100, height=20, colour=False)
    assert lines[0] == "r1  w  RUNNING  3.5s"
    assert lines[1].split() == ["build/test", "RUNNING", "2.5s", "attempt", "2"]
    assert lines[2].split() == ["b", "PENDING"]


def test_a_picture_never_outgrows_the_terminal():
    steps = [StepView(path=f"s{n}", state="COMPLETED") for n in range(500)]
    steps[400].state, steps[450].state = "RUNNING", "FAILED"
    steps[450].error = "e" * 500
    lines = picture(run("RUNNING", *steps), 0, width=60, height=8, colour=False)
    assert len(lines) == 8
    assert all(len(line) <= 60 for line in lines)
    assert any("s400" in line for line in lines)
    assert any("s450" in line for line in lines)
    assert lines[-1] == "  … 500 steps: 498 completed, 1 failed, 1 running"


def test_lines_say_what_changed():
    before = run("PENDING", StepView(path="a", state="PENDING"))
    assert change_lines(None, before) == ["run r1 PENDING"]
    running = run("RUNNING", StepView(path="a", state="RUNNING", attempt=2))
    assert change_lines(before, running) == ["a RUNNING (attempt 2)", "run r1 RUNNING"]
    assert change_lines(running, running) == []
    done = run(
        "FAILED",
        StepView(
            path="a", state="FAILED", attempt=2, started_ms=1, finished_ms=501, error="no\nway"
        ),
        finished_ms=3_000,
        reason="step a failed",
    )
    assert change_lines(running, done) == [
        "a FAILED (attempt 2) in 500ms: no way",
        "run r1 FAILED in 2.0s: step a failed",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


async def views(*found):
    for view in found:
        yield view


async def test_a_terminal_gets_a_picture_that_is_drawn_over(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    progress = Progress(terminal)
    last = run("COMPLETED", StepView(path="a", state="COMPLETED"), finished_ms=2_000)
    assert (
        await progress.follow(views(run("RUNNING", StepView(path="a", state="READY")), last))
        is last
    )
    text = terminal.getvalue()
    assert "\x1b[2A" in text
    assert text.index("READY") < text.index("COMPLETED")
    assert "\x1b[3" not in text


async def test_a_pipe_gets_plain_lines():
    pipe = io.StringIO()
    await Progress(pipe).follow(
        views(run("RUNNING"), run("RUNNING"), run("COMPLETED", finished_ms=1_500))
    )
    assert pipe.getvalue() == "run r1 RUNNING\nrun r1 COMPLETED in 500ms\n"


def test_on_a_terminal_a_run_of_many_steps_is_told_by_those_that_say_most():
    steps = [StepView(path=f"s{n}", state="COMPLETED") for n in range(500)]
    steps[250] = StepView(path="s250", state="FAILED", error="exit code 1")
    view = run("FAILED", *steps)
    few = run_lines(view, 0, wide=False, colour=False, steps_max=3)
    assert sum(line.startswith("s") for line in few) == 3
    assert any(line.startswith("s250") and "exit code 1" in line for line in few)
    assert few[-1] == "… 500 steps: 499 completed, 1 failed; -o wide shows them all"
    everything = run_lines(view, 0, wide=False, colour=False)
    assert sum(line.startswith("s") for line in everything) == 500
