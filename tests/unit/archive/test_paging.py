import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.coordinator.archive.paging import (
    TIME_MS_MAX,
    Place,
    decode_cursor,
    encode_cursor,
    page_size,
    wanted_states,
)
from headrace.errors import InvalidRequest
from headrace.messages import ListRuns


@given(st.integers(0, TIME_MS_MAX), st.text(alphabet="abcXYZ019_-", min_size=1, max_size=128))
def test_a_cursor_comes_back(created_ms, run):
    place = Place(created_ms, run)
    cursor = encode_cursor(place)
    assert decode_cursor(cursor) == place
    assert cursor.isascii()
    assert " " not in cursor


@given(st.text(max_size=40))
def test_any_text_is_a_cursor_or_refused(text):
    try:
        decode_cursor(text)
    except InvalidRequest:
        pass


def test_an_empty_cursor_is_the_beginning():
    assert decode_cursor("") is None


def test_a_time_out_of_range_is_refused():
    with pytest.raises(InvalidRequest):
        decode_cursor(encode_cursor(Place(TIME_MS_MAX + 1, "a")))
    with pytest.raises(InvalidRequest):
        decode_cursor(encode_cursor(Place(-1, "a")))


def test_states_and_sizes():
    assert wanted_states(ListRuns()) == ("CANCELLED", "COMPLETED", "FAILED")
    assert wanted_states(ListRuns(states=["FAILED", "RUNNING"])) == ("FAILED",)
    assert wanted_states(ListRuns(states=["RUNNING"])) == ()
    assert [page_size(ListRuns(limit=n)) for n in (-1, 0, 5, 10_000)] == [1, 1, 5, 1_000]
