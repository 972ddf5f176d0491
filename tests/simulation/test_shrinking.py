"""A world that fails is made smaller, told in short, and made again from what is printed."""

from __future__ import annotations

import asyncio
import shlex

import pytest

from support.sim import __main__ as command
from support.sim import allowance, report
from support.sim.allowance import OVERDUE
from support.sim.batch import run_some
from support.sim.chaos import PROFILES
from support.sim.clients import SimClient
from support.sim.loop import Process
from support.sim.mishaps import MISHAPS
from support.sim.recipe import Recipe
from support.sim.shrink import kind_of, shrink, timeline
from support.sim.tally import HAPPENINGS, Tally
from support.sim.world import World


def recipe_of(line: str) -> Recipe:
    """Return the world that a printed command makes."""
    arguments = shlex.split(line)
    options = command.parsed(arguments[arguments.index("support.sim") + 1 :])
    return command._recipe(options, options.seed)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(7),
        Recipe(7, "net"),
        Recipe(7, omit=frozenset({"run-1", "fault-0"}), never=frozenset({"loss"})),
        Recipe(7, only=frozenset({"kill-worker", "rot"}), kill=("c0", 31)),
    ],
)
def test_the_printed_command_makes_the_same_world(recipe):
    assert recipe_of(recipe.command()) == recipe


def test_every_fault_of_a_profile_can_be_done():
    assert {kind for kinds in PROFILES.values() for kind in kinds} <= MISHAPS.keys()
    assert all(deed.__doc__ for deed in MISHAPS.values())


@pytest.fixture
def intolerant(monkeypatch):
    """Worlds in which a process that is killed is a violation, as a bug would make it one."""
    before = World._killed

    def killed(self: World, process: Process) -> None:
        before(self, process)
        self.violation(f"{process.name} is dead at {self.loop.now_s:.3f} s")

    monkeypatch.setattr(World, "_killed", killed)


def test_what_is_not_needed_is_left_out(intolerant):
    recipe = Recipe(5, only=frozenset({"kill-worker", "cut-worker", "net"}))
    while not World(recipe).run():
        recipe = recipe._replace(seed=recipe.seed + 1)
    small = shrink(recipe)
    assert small is not None
    # The fault, and perhaps the worker that it chooses.
    assert small.parts <= 3 < 5 < small.parts_before
    again = World(small.recipe)
    assert again.run() == small.violations
    assert len(set(again.parts) - small.recipe.omit) == small.parts
    assert recipe_of(small.recipe.command()) == small.recipe
    told = small.told()
    assert small.recipe.command() in told
    assert "is killed" in told
    assert "VIOLATION" in told


def test_a_world_that_is_fine_is_not_shrunk():
    assert shrink(Recipe(0, "calm")) is None


def test_violations_of_one_kind_are_the_same_without_names_and_numbers():
    one = "[3.250 s] shard 1: default/ab-r3 step 4 attempt 1 is given up; it runs: [1]"
    other = "[12.010 s] shard 0: default/xy-r0 step 12 attempt 2 is given up; it runs: [2]"
    assert kind_of(one) == kind_of(other) != kind_of("[1.000 s] shard 1: key is held")
    assert "given up" in kind_of(one)


def test_a_timeline_has_faults_and_who_it_is_about():
    story = [
        "   0.1000  ** kill-worker (fault-1)",
        "   0.1000  w0.1 is killed",
        "   0.2000  c0.1: something that nobody asked for",
        "   0.3000  w1.2 starts ab-r1 n1 attempt 1",
        "   0.4000  w1.2 starts cd-r2 n1 attempt 1",
        "   0.5000  VIOLATION run ab-r1 is lost",
    ]
    told = timeline(story, ["run ab-r1 is lost"])
    assert told == [story[0], story[1], story[3], story[5]]


def test_a_tally_tells_what_never_happened():
    tally = Tally()
    world = World(Recipe(0, "calm"))
    assert world.run() == []
    tally.add(world.tally)
    assert set(tally.missing()) <= HAPPENINGS.keys()
    assert "killed" in tally.missing()
    assert "hash-compared" not in tally.missing()


def test_a_process_dies_before_the_step_that_was_named():
    world = World(Recipe(3, kill=("w0", 40)), story=True)
    assert world.run() == []
    assert world.tally["killed-at-step"] == 1
    killed = [line for line in world.story or () if "is killed at step" in line]
    assert [line.rpartition(" ")[2] for line in killed] == ["40"]


def test_a_result_is_shown_on_the_page():
    sums = run_some([Recipe(0, "calm")])
    facts = sums.facts() | {
        "first_seed": 0,
        "next_seed": 1,
        "seconds": 1.0,
        "cores": 2,
        "machine": "some machine",
        "python": "3.11",
        "command": "python -m support.sim --report",
    }
    page = report.filled(report.PAGE.read_text(), facts)
    assert "1 worlds (seeds 0 to 0), **0 bad**" in page
    assert all(f"| {meaning} |" in page for meaning in HAPPENINGS.values())
    assert report.filled(page, facts) == page


def test_a_world_that_goes_round_for_ever_is_told_of_and_ended(monkeypatch):
    """A step of code that never lets go, in the middle of a world."""

    async def spins(self: SimClient) -> None:
        await asyncio.sleep(1.0)
        while True:
            pass

    monkeypatch.setattr(SimClient, "_decide", spins)
    monkeypatch.setattr(allowance, "CPU_S_MAX", 1.0)
    small = shrink(Recipe(0, "calm"))
    assert small is not None
    assert OVERDUE in small.violations[0]
    assert "spins" in small.violations[0]
    assert "c0.1 starts" in small.told()
    assert small.worlds == 2, "no hour is spent on making it smaller"
