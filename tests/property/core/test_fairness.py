"""Shares follow the weights within one unit of each flow, and nobody starves."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.coordinator.core.fairness import FairQueue
from support.core_settings import examples

WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 8.0)


class Model:
    """What each flow wants and has got, and since when it always wanted something."""

    def __init__(self, weights: list[float]) -> None:
        self.queue = FairQueue()
        self.runs: list[Any] = [
            SimpleNamespace(fair_key=f"k{n}", fair_weight=w) for n, w in enumerate(weights)
        ]
        self.waiting = [0] * len(weights)
        self.got = [0] * len(weights)
        self.step = 0

    def add(self, flow: int, count: int) -> None:
        for _ in range(count):
            self.queue.append((self.runs[flow], self.step, 0))
            self.step += 1
        self.waiting[flow] += count

    def serve(self, *, stale: bool = False) -> None:
        if not self.queue:
            assert not any(self.waiting)
            return
        run, _, _ = self.queue.popleft()
        flow = self.runs.index(run)
        self.waiting[flow] -= 1
        if not stale:
            self.queue.charge(run)
            self.got[flow] += 1


@examples(300)
@given(data=st.data())
def test_two_that_always_want_something_differ_by_a_unit_of_each_at_most(
    data: st.DataObject,
) -> None:
    weights = data.draw(st.lists(st.sampled_from(WEIGHTS), min_size=2, max_size=5))
    model = Model(weights)
    for flow in range(len(weights)):
        model.add(flow, data.draw(st.integers(0, 5)))
    for _ in range(data.draw(st.integers(0, 20))):
        # Whatever was before: others come, are served, and are empty again.
        model.serve(stale=data.draw(st.booleans()))
    for flow in (0, 1):
        model.add(flow, 400)
    start = list(model.got)
    others = st.integers(0, len(weights) - 1)
    for _ in range(200):
        if data.draw(st.integers(0, 9)) == 0:
            model.add(data.draw(others), data.draw(st.integers(1, 3)))
        model.serve()
        first, second = ((model.got[f] - start[f]) / Fraction(weights[f]) for f in (0, 1))
        bound = 1 / Fraction(weights[0]) + 1 / Fraction(weights[1])
        assert abs(first - second) <= bound


@examples(300)
@given(
    weights=st.lists(st.sampled_from(WEIGHTS), min_size=1, max_size=6),
    moves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.booleans()), max_size=60),
)
def test_everything_is_served_once_and_nobody_starves(
    weights: list[float], moves: list[tuple[int, int, bool]]
) -> None:
    model = Model(weights)
    for flow, count, stale in moves:
        model.add(flow % len(weights), count)
        model.serve(stale=stale)
    assert len(model.queue) == sum(model.waiting)
    # The smallest share of what is ahead of anybody's next turn.
    least = min(weights)
    turn = sum(int(weight / least) + 1 for weight in weights)
    for flow in range(len(weights)):
        if not model.waiting[flow]:
            continue
        before = model.waiting[flow]
        for _ in range(2 * turn):
            model.serve()
        assert model.waiting[flow] < before
    while model.queue:
        model.serve()
    assert not any(model.waiting)
