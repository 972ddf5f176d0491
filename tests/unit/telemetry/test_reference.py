import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from headrace.telemetry import (
    BusMetrics,
    CoordinatorMetrics,
    ProcessMetrics,
    WorkerMetrics,
    describe,
    families,
)

ROOT = Path(__file__).parents[3]


def test_page_is_up_to_date():
    # Mend with: python -m headrace.telemetry > docs/metrics.md
    assert (ROOT / "docs" / "metrics.md").read_text() == describe()


def test_every_family_stands_there_with_a_text():
    text = describe()
    for kind in (CoordinatorMetrics, WorkerMetrics, BusMetrics, ProcessMetrics):
        for family in families(kind(CollectorRegistry())).values():
            (line,) = [line for line in text.split("\n") if f"| `{family.name}` |" in line]
            assert line.rstrip(" |").endswith("."), line


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        (CoordinatorMetrics, "coordinator/headrace/coordinator"),
        (WorkerMetrics, "worker/headrace/worker"),
        (BusMetrics, "common/headrace/bus"),
        (ProcessMetrics, "common/headrace/telemetry"),
    ],
    ids=["coordinator", "worker", "bus", "process"],
)
def test_no_family_is_declared_that_nothing_feeds(kind, folder):
    source = "\n".join(path.read_text() for path in (ROOT / folder).rglob("*.py"))
    # That it moves is for tests/integration/metrics to see.
    fed = set(re.findall(r"metrics\.(\w+)\b", source))
    assert set(families(kind(CollectorRegistry()))) <= fed
