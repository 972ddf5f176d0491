"""One cluster of real processes with low limits, which tests do no harm to."""

from collections.abc import Iterator

import pytest

from support.cluster import Cluster, shared

LIMITS = {
    "HEADRACE_CFG_LIMITS__PAYLOAD_BYTES_MAX": "4000000",
    "HEADRACE_CFG_LIMITS__LABELS_MAX": "4",
    "HEADRACE_CFG_LIMITS__LABEL_BYTES_MAX": "32",
    "HEADRACE_CFG_LIMITS__PAGE_RUNS_MAX": "2",
    "HEADRACE_CFG_LIMITS__RUN_STEPS_MAX": "250",
    "HEADRACE_CFG_LIMITS__APPEND_BYTES_MAX": "65536",
}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared(Cluster(tmp_path_factory.mktemp("cluster"), env=LIMITS)) as made:
        yield made
