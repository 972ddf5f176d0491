"""What `flowctl dev` decides before it starts anything."""

import pytest

from headrace.local.dev import STREAMS_BYTES, store_bytes

GIB = 1024**3


@pytest.mark.parametrize(
    ("disk", "free", "told"),
    [
        (500 * GIB, 100 * GIB, 0),
        (500 * GIB, 2 * GIB, 500 * GIB),
        (GIB, GIB // 2, STREAMS_BYTES),
    ],
)
def test_a_small_disk_is_no_reason_not_to_start(disk, free, told):
    """By itself the broker would refuse streams that may grow larger than what is free."""
    assert store_bytes(disk, free) == told
