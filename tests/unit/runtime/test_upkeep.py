"""Streams that the broker has lost are there again before anybody needs them."""

from __future__ import annotations

import pytest

from headrace.messages import subjects
from support.sim.chaos import Chaos
from support.sim.recipe import Recipe
from support.sim.world import World

AT_S, BACK_S, LOOK_S = 0.8, 1.0, 2.5
"""When the broker loses its memory, connections are made again, somebody looks."""


@pytest.fixture
def nobody() -> Recipe:
    """A world without runs, and so without tasks."""
    world = World(Recipe(1, "calm"))
    assert world.run() == []
    return Recipe(1, "calm", omit=frozenset(world.parts))


def test_a_task_stream_that_was_lost_is_there_before_anybody_needs_it(nobody, monkeypatch):
    seen: dict[str, bool] = {}

    def plan(chaos: Chaos, until_s: float) -> None:
        world = chaos._world

        def look(name: str) -> None:
            seen[name] = subjects.TASK_STREAM in world.broker.streams

        def forget() -> None:
            look("before")
            world.broker.restart(forget=True)
            look("lost")

        def back() -> None:
            for bus in list(world.broker.buses):
                bus.mend()

        assert until_s > LOOK_S
        world.later(AT_S, forget)
        world.later(BACK_S, back)
        world.later(LOOK_S, look, "after")

    monkeypatch.setattr(Chaos, "plan", plan)
    world = World(nobody)
    assert world.run() == []
    assert world.record.executions == []
    assert seen == {"before": True, "lost": False, "after": True}
