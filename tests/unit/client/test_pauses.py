"""How long a client waits before it asks again."""

from headrace.client._calls import PAUSE_S_MAX, PAUSE_S_MIN, RETRY_AFTER_S_MAX, Pauses
from headrace.errors import Busy, Unreachable


def test_a_busy_server_is_given_the_time_that_it_asks_for():
    asked = [Pauses().after(Busy("full", retry_after_ms=400)) for _ in range(200)]
    assert all(0.4 <= pause_s <= 0.6 for pause_s in asked)
    assert len(set(asked)) > 100, "those who were told the same do not come back together"


def test_it_is_not_told_to_wait_for_ever():
    pause_s = Pauses().after(Busy("full", retry_after_ms=3_600_000))
    assert RETRY_AFTER_S_MAX <= pause_s <= 1.5 * RETRY_AFTER_S_MAX


def test_pauses_double_up_to_a_bound():
    pauses = Pauses()
    found = [pauses.after(Unreachable("nobody")) for _ in range(12)]
    assert found[0] <= PAUSE_S_MIN
    assert 0.7 * PAUSE_S_MAX <= found[-1] <= PAUSE_S_MAX
