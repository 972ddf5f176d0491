"""Thousands of small worlds in which everything fails that can; see `support.sim`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from support.sim.batch import (
    STORY_LINES,
    Sums,
    digests,
    explain_apart,
    run_many,
    steps_of,
    tell_apart,
)
from support.sim.features import known
from support.sim.recipe import Recipe

SHOWN_MAX = 2
LISTED_MAX = 30
ENOUGH = 1_000
"""In so many worlds everything happens that can."""
ENOUGH_OF_ALL = 5_000
"""In so many, everything is used that a plan can say, a client ask, a log hold."""
RARE = ("snapshots", "rot", "copies", "no-control")
"""Faults that hit what is there for moments only, so that few worlds are hit, or that have a rule
where they are alone."""
RARE_WORLDS = 12
STEPS_TRIED = 30


def lived(recipes: Iterable[Recipe]) -> Sums:
    """Live through worlds; fail with the stories of those that went wrong."""
    sums = Sums()
    for piece in run_many(recipes):
        sums.merge(piece)
    found = sums.findings
    if found:
        lines = [explain_apart(finding.recipe) for finding in found[:SHOWN_MAX]]
        lines += [finding.line() for finding in found[SHOWN_MAX:LISTED_MAX]]
        pytest.fail(f"{len(found)} of {sums.worlds} worlds:\n" + "\n\n".join(lines), pytrace=False)
    return sums


@pytest.mark.timeout(0)
def test_what_is_promised_holds_in_every_world(one_seed: int | None, seeds: range) -> None:
    if one_seed is not None:
        violations, story = tell_apart(Recipe(one_seed))
        print("\n".join(story if violations else story[-STORY_LINES:]))
        assert not violations, violations[0]
        return
    rare = [Recipe(seed, only=frozenset({kind})) for kind in RARE for seed in range(RARE_WORLDS)]
    sums = lived([*map(Recipe, seeds), *rare])
    assert sums.tally.worlds["hash-compared"] == sums.worlds
    if len(seeds) >= ENOUGH:
        # Nothing that can go wrong is only said to: each has happened, and was survived.
        assert sums.tally.missing() == []
    if len(seeds) >= ENOUGH_OF_ALL:
        # Nor is anything that a workflow can say, or a client ask, left out without a reason.
        assert known() - set(sums.used.worlds) == set()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", ["c0", "w0"])
def test_a_process_may_die_before_any_of_its_steps(one_seed: int | None, name: str) -> None:
    """Some steps of one life; `python -m support.sim --kill-each NAME` tries all."""
    seed = one_seed if one_seed is not None else 3
    steps = steps_of(Recipe(seed, kill=(name, 0)), name)
    tried = range(1, steps + 1, max(steps // STEPS_TRIED, 1))
    sums = lived(Recipe(seed, kill=(name, step)) for step in tried)
    assert sums.tally.times["killed-at-step"] == len(tried) >= STEPS_TRIED


def test_a_seed_is_the_same_world_every_time(one_seed: int | None) -> None:
    some = range(100, 116) if one_seed is None else [one_seed]
    assert digests(some) == digests(some)
