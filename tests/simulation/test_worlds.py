"""Thousands of small worlds in which everything fails that can; see `support.sim`."""

from __future__ import annotations

import pytest

from support.sim.batch import (
    STORY_LINES,
    Sums,
    digests,
    explain_apart,
    run_many,
    tell_apart,
)
from support.sim.recipe import Recipe

SHOWN_MAX = 2
LISTED_MAX = 30
ENOUGH = 1_000
"""In so many worlds everything happens that can."""
STEPS_TRIED = 40


def complain(sums: Sums) -> None:
    """Fail with the stories of what went wrong."""
    found = sums.findings
    if found:
        lines = [explain_apart(finding.recipe) for finding in found[:SHOWN_MAX]]
        lines += [finding.line() for finding in found[SHOWN_MAX:LISTED_MAX]]
        pytest.fail(f"{len(found)} of {sums.worlds} worlds:\n" + "\n\n".join(lines), pytrace=False)


@pytest.mark.timeout(0)
def test_what_is_promised_holds_in_every_world(
    one_seed: int | None, request: pytest.FixtureRequest
) -> None:
    if one_seed is not None:
        violations, story = tell_apart(Recipe(one_seed))
        print("\n".join(story if violations else story[-STORY_LINES:]))
        assert not violations, violations[0]
        return
    complain(request.getfixturevalue("lived"))


@pytest.mark.timeout(0)
def test_everything_that_can_go_wrong_does(
    one_seed: int | None, request: pytest.FixtureRequest
) -> None:
    if one_seed is not None:
        return
    sums: Sums = request.getfixturevalue("lived")
    if sums.worlds >= ENOUGH:
        assert sums.tally.missing() == []
    assert sums.tally.worlds["hash-compared"] == sums.worlds - len(sums.findings)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", ["c0", "w0"])
def test_a_process_may_die_before_any_of_its_steps(one_seed: int | None, name: str) -> None:
    """Some steps of one life; `python -m support.sim --kill-each NAME` tries all."""
    seed = one_seed if one_seed is not None else 3
    steps = range(11, 11 + 29 * STEPS_TRIED, 29)
    sums = Sums()
    for piece in run_many(Recipe(seed, kill=(name, step)) for step in steps):
        sums.merge(piece)
    complain(sums)
    assert sums.tally.times["killed-at-step"] > STEPS_TRIED // 2


def test_a_seed_is_the_same_world_every_time(one_seed: int | None) -> None:
    some = range(100, 116) if one_seed is None else [one_seed]
    assert digests(some) == digests(some)
