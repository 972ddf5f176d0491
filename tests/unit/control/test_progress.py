import pytest

from headrace.coordinator.control.progress import Progress
from headrace.coordinator.control.wire import NextIndex

TERM = 4


def told(progress, answer, *, birth=1, commit_index=100):
    return [
        (each.next_index, each.reset, each.success)
        for each in progress.bounded("b", birth, answer, term=TERM, commit_index=commit_index)
    ]


def confirms(next_index, term=TERM):
    return NextIndex(term, next_index, False, True)


def asks(next_index, term=TERM):
    return NextIndex(term, next_index, True, False)


@pytest.mark.parametrize("answer", [confirms(9, TERM - 1), asks(2, TERM + 1)])
def test_answers_of_another_term_are_not_told(answer):
    assert told(Progress(), answer) == []


def test_a_confirmation_does_not_call_back_what_is_under_way():
    progress = Progress()
    progress.note_sent("b", term=TERM, last_index=12)
    assert told(progress, confirms(8)) == [(8, False, True), (13, True, False)]
    assert told(progress, confirms(13)) == [(13, False, True)]


def test_a_request_for_more_goes_back_no_further_than_what_is_confirmed():
    progress = Progress()
    progress.note_sent("b", term=TERM, last_index=12)
    told(progress, confirms(8))
    assert told(progress, asks(5)) == [(8, True, False)]
    assert told(progress, asks(10)) == [(10, True, False)]
    # What was lost is sent again, so it is not under way any more.
    assert told(progress, confirms(9)) == [(9, False, True), (10, True, False)]


def test_a_request_beyond_the_leaders_log_is_cut():
    assert told(Progress(), asks(500), commit_index=20) == [(21, True, False)]


def test_a_new_life_or_a_new_term_has_confirmed_nothing():
    progress = Progress()
    told(progress, confirms(50))
    assert told(progress, asks(2), birth=2) == [(2, True, False)]
    told(progress, confirms(50), birth=2)
    newer = progress.bounded("b", 2, asks(2, TERM + 1), term=TERM + 1, commit_index=100)
    assert [each.next_index for each in newer] == [2]
