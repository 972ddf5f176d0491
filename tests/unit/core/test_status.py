"""The table of legal changes, as a table."""

from __future__ import annotations

from headrace.coordinator.core import status


def test_every_state_has_a_name_and_a_row() -> None:
    assert len(status.NAMES) == len(set(status.NAMES)) == len(status.ALLOWED)
    assert set(status.ALLOWED) == set(range(len(status.NAMES)))


def test_final_states_stay() -> None:
    """But for an unknown one, which a person may settle."""
    for value in status.FINAL - {status.UNKNOWN}:
        assert status.ALLOWED[value] == frozenset()
    assert {status.NAMES[v] for v in status.ALLOWED[status.UNKNOWN]} == {
        "COMPLETED",
        "FAILED",
        "PENDING",
        "SKIPPED",
    }
    assert {v for v in status.ALLOWED if status.is_final(v)} == status.FINAL


def test_a_dispatched_step_is_no_container() -> None:
    assert status.RUNNING not in status.ALLOWED[status.DISPATCHED]
