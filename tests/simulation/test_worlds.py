"""Thousands of small worlds in which everything fails that can; see `support.sim`."""

from __future__ import annotations

import pytest

from support.sim.batch import STORY_LINES, digests, report, run_many, tell

SHOWN_MAX = 2
LISTED_MAX = 30


@pytest.mark.timeout(0)
def test_what_is_promised_holds_in_every_world(
    one_seed: int | None, seeds: int, first_seed: int
) -> None:
    if one_seed is not None:
        violations, story = tell(one_seed)
        print("\n".join(story if violations else story[-STORY_LINES:]))
        assert not violations, violations[0]
        return
    found = run_many(first_seed, seeds)
    if found:
        lines = [report(finding) for finding in found[:SHOWN_MAX]]
        lines += [
            f"seed {f.seed} ({f.profile}): {f.violation}" for f in found[SHOWN_MAX:LISTED_MAX]
        ]
        pytest.fail(f"{len(found)} of {seeds} worlds:\n" + "\n\n".join(lines), pytrace=False)


def test_a_seed_is_the_same_world_every_time(one_seed: int | None) -> None:
    if one_seed is not None:
        assert digests([one_seed]) == digests([one_seed])
        return
    some = range(100, 116)
    assert digests(some) == digests(some)
