"""Two processes of one id: the later one is told that it is."""

import pytest

from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat
from headrace.coordinator.control.rivals import WAIT_S, Rival


def beat(life, started_ms, **changes):
    return CoordinatorHeartbeat(
        version=1, id="c0", incarnation=life, started_ms=started_ms, sent_ms=1,
        membership="m", members=1, **changes,
    )  # fmt: skip


@pytest.fixture
def told():
    return []


@pytest.fixture
def rival(told):
    made = Rival("mine", 100)
    made.stays = lambda: told.append(1)
    return made


def test_an_older_one_that_goes_on_is_told(rival, told):
    rival.heard(beat("old", 99), 10.0)
    rival.heard(beat("old", 99), 10.0 + WAIT_S - 0.1)
    assert told == []
    rival.heard(beat("old", 99), 10.0 + WAIT_S)
    assert told == [1]


def test_a_predecessor_that_ends_is_not(rival, told):
    rival.heard(beat("old", 99), 10.0)
    rival.heard(beat("old", 99, stopped=True), 11.0)
    rival.heard(beat("older", 98), 30.0)
    assert told == []


def test_of_two_exactly_one_is_told():
    one, two = Rival("a", 100), Rival("b", 100)
    told = []
    one.stays, two.stays = lambda: told.append("a"), lambda: told.append("b")
    for now_s in (0.0, WAIT_S):
        one.heard(beat("b", 100), now_s)
        two.heard(beat("a", 100), now_s)
    assert told == ["b"]
