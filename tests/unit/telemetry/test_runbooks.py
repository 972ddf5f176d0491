"""What the runbooks look for is there: lines of logs, and metrics."""

import logging
import re
from pathlib import Path

import pytest

from headrace.telemetry import JsonFormatter, TextFormatter, describe

ROOT = Path(__file__).parents[3]
SOURCES = "".join(
    path.read_text()
    for part in ("common", "coordinator", "worker")
    for path in (ROOT / part).rglob("*.py")
)
LOOKS = sorted(
    {
        (page.name, source, pattern)
        for page in (ROOT / "docs" / "runbooks").glob("*.md")
        for source, pattern in re.findall(
            r"(kubectl logs|/metrics)[^\n]*?\| grep -E '([^']+)'", page.read_text()
        )
    }
)
ERRORS = next(pattern for name, _, pattern in LOOKS if name == "errors-logged.md")


def alternatives(pattern):
    """Return what a pattern of alternatives, some of them in brackets, may stand for."""
    outer = re.split(r"\|(?![^()]*\))", pattern)
    if len(outer) > 1:
        return [found for part in outer for found in alternatives(part)]
    if not (inner := re.search(r"\(([^()]*)\)", pattern)):
        return [pattern.removeprefix("^")]
    before, behind = pattern[: inner.start()], pattern[inner.end() :]
    return [found for part in inner[1].split("|") for found in alternatives(before + part + behind)]


def test_there_are_patterns_of_both_kinds():
    assert {source for _, source, _ in LOOKS} == {"kubectl logs", "/metrics"}


@pytest.mark.parametrize(("name", "source", "pattern"), LOOKS)
def test_what_a_runbook_looks_for_exists(name, source, pattern):
    if pattern == ERRORS:
        return
    # Of the process itself there are more than are declared.
    said = SOURCES if source == "kubectl logs" else describe() + "process_cpu process_resident"
    said = re.sub(r"`(\w+)` \| histogram", r"\1_sum \1_count", said)
    assert [part for part in alternatives(pattern) if part not in said] == []


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_lines_of_errors_are_found_and_no_others(formatter, level):
    number = logging.getLevelNamesMapping()[level]
    line = formatter.format(logging.LogRecord("headrace.x", number, "x", 1, "said", (), None))
    assert bool(re.search(ERRORS, line)) is (number >= logging.ERROR)
