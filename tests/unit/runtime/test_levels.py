"""When the feature level of a cluster may rise."""

import pytest

from headrace.coordinator.control.view import CoordinatorRecord
from headrace.coordinator.runtime.levels import common_level


def record(name, level, status="online"):
    return CoordinatorRecord(id=name, incarnation="1", feature_level=level, status=status)


@pytest.mark.parametrize(
    ("known", "level"),
    [
        ([record("a", 3), record("b", 3)], 3),
        # Nobody's is raised by those who are ahead, and nobody has more than we ourselves can read.
        ([record("a", 3), record("b", 2)], 2),
        ([record("a", 4), record("b", 4)], 3),
        # One that is away, or was never seen, may come back as what it was.
        ([record("a", 3), record("b", 3, "offline")], 0),
        ([record("a", 3), record("b", 3, "draining")], 0),
        ([record("a", 3)], 0),
        # A stranger has no say.
        ([record("a", 3), record("b", 3), record("c", 1)], 3),
    ],
)
def test_all_must_be_there_and_the_lowest_counts(known, level):
    assert common_level(3, ("a", "b"), {one.id: one for one in known}) == level
