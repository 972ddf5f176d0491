"""What `flowctl logs` and `--watch` make of annotations and groups."""

import json

import pytest

from headrace.flowctl._live import change_lines
from headrace.flowctl._logs import StepLog
from headrace.messages import LogLine, LogLines, RunView, StepView

LINES = [
    "before",
    "::group::Install %things",
    "one",
    "::warning file=a.py,line=3,col=7,title=Old::use b%0Ainstead",
    "two",
    "::endgroup::",
    "::error::it is broken",
    "::add-mask::***",
    "::group::Next",
    "three",
    "::group::Last",
    "::stop-commands::halt",
    "::error::as it is",
    "::halt::",
    "::notice title=Done::well",
    "a::b ::error",
]
WARNING = "warning: a.py:3:7: Old: use b instead"


def shown(lines, **options):
    log = StepLog(**options)
    found = [s for n, line in enumerate(lines) for s in log.line(line, n, 0)]
    return [s.text for s in (*found, *log.end())]


def test_groups_open_and_annotations_in_words():
    assert shown(LINES, fold=False) == [
        "before",
        "▾ Install %things",
        "one",
        WARNING,
        "two",
        "error: it is broken",
        "▾ Next",
        "three",
        "▾ Last",
        "::error::as it is",
        "notice: Done: well",
        "a::b ::error",
    ]


def test_groups_are_folded_and_keep_their_annotations():
    assert shown(LINES, fold=True) == [
        "before",
        "▸ Install %things (3 lines)",
        WARNING,
        "error: it is broken",
        "▸ Next (1 line)",
        "▸ Last (3 lines)",
        "notice: Done: well",
    ]
    assert shown(["::endgroup::", "::group::"], fold=True) == ["▸ group (0 lines)"]


def test_colours_only_where_they_are_wanted():
    assert shown(["::error::x"], fold=True, colour=True) == ["\x1b[31merror: x\x1b[0m"]
    # A step cannot drive the terminal.
    assert shown(["::error::\x1b[2Jx"], fold=True) == ["error: x"]


@pytest.fixture
def run(flowctl, cluster, workflow):
    cluster.after_submit = lambda run: cluster.finish(run)
    name = flowctl("submit", workflow, "-o", "name").out.strip()
    for step, first, texts in (
        (1, 0, ["::group::G", "in"]),
        (2, 0, ["::group::G", "in"]),
        (1, 2, ["::error::no"]),
    ):
        lines = [LogLine(1_000, "stdout", text) for text in texts]
        path = {1: "a/x", 2: "b/y"}[step]
        cluster.logs.append(LogLines(1, f"default/{name}", step, path, 1, first, lines))
    return name


def test_each_step_has_groups_of_its_own(flowctl, run):
    assert flowctl("logs", run).out.splitlines() == [
        "a/x | ▾ G",
        "a/x | in",
        "b/y | ▾ G",
        "b/y | in",
        "a/x | error: no",
    ]
    objects = flowctl("logs", run, "-o", "json").out.splitlines()
    told = [json.loads(line)["text"] for line in objects]
    assert told == ["::group::G", "in", "::group::G", "in", "::error::no"]


def test_watch_tells_annotations_when_a_step_has_ended():
    note = {"level": "error", "message": "it is broken", "file": "a.py", "line": 3}
    step = StepView(path="a/x", state="FAILED", started_ms=1, finished_ms=2, annotations=[note])
    lines = change_lines(None, RunView(id="r", workflow="w", state="RUNNING", steps=[step]))
    assert lines[2] == "  error: a/x: a.py:3: it is broken"
