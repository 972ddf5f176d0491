"""What looks at all of a long run is done in pieces, and gives what it gives in one go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import Holder, histories, past, pieces, step_views
from headrace.coordinator.core.histories import history_entries, telling
from headrace.coordinator.core.past import copy_of, past_view, viewing_past
from headrace.coordinator.core.pieces import Packed, Piece, Pieces, finished
from headrace.coordinator.core.snapshot import encode_run
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.step_views import plan_order
from headrace.coordinator.core.views import run_view, viewing
from headrace.messages import GetRun, HistoryEntry, RunView
from support.corekit import Kit
from support.plans import group, loop, plan, repeat, task

PIECE = 7


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    monkeypatch.setattr(pieces, "UNIT_BYTES", 1_000_000)
    monkeypatch.setattr(past, "FOLDED", PIECE)


@pytest.fixture
def kit() -> Kit:
    """A run with loops in loops, half done."""
    kit = Kit()
    inner = loop("inner", group("pair", task("x"), task("y", needs=["x"])), items=["p", "q"])
    kit.start(
        plan(
            task("a"),
            loop("outer", group("body", inner, task("z", needs=["inner"])), items=list(range(9))),
            repeat("again", task("t"), times=3, needs=["a"]),
            task("last", needs=["outer"]),
        )
    )
    for _ in range(3):
        for path in sorted(kit.dispatched())[::2]:
            kit.complete(path, {"of": path})
    return kit


class Counted:
    """How much was done between two yields."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.now, self.most, self.all = 0, 0, 0
        real = getattr(module, name)

        def counted(*arguments: Any) -> Any:
            self.now += 1
            self.all += 1
            self.most = max(self.most, self.now)
            return real(*arguments)

        monkeypatch.setattr(module, name, counted)

    def finished(self, work: Pieces[Any]) -> Any:
        while True:
            self.now = 0
            try:
                next(work)
            except StopIteration as end:
                return end.value


def read(value: object, kind: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


def reference(run: Run) -> list[int]:
    """The order by where each instance stands, spelled out."""
    places: dict[int, tuple[int, ...]] = {}
    for scope in run.scopes:
        node, _, outer = run.locate(scope.loop)
        above = places[outer.base] if outer is not None else ()
        places[scope.base] = (*above, node, scope.index)

    def place(instance: int) -> tuple[int, ...]:
        node, _, scope = run.locate(instance)
        return (*places[scope.base], node) if scope is not None else (node,)

    return sorted(range(1, len(run.status)), key=place)


def test_the_order_of_a_plan_has_iterations_behind_their_loop(kit: Kit) -> None:
    run = kit.run()
    assert len(run.scopes) > 20
    assert list(plan_order(run)) == reference(run)


def test_a_view_is_made_in_pieces(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = kit.run()
    wanted = run_view(run, steps=True, shard=3, holders={(run.key, 1): Holder("w")})
    counted = Counted(monkeypatch, step_views, "_view")
    view = counted.finished(viewing(run, shard=3, holders={(run.key, 1): Holder("w")}))
    assert read(view, RunView) == wanted
    assert counted.most <= PIECE < counted.all


def test_a_copy_stays_as_it_was(kit: Kit) -> None:
    run = kit.run()
    before = run_view(run, steps=True)
    data = encode_run(run)
    for path in sorted(kit.dispatched()):
        kit.complete(path)
    assert run_view(run, steps=True) != before
    copied = copy_of(data, run.key, run.programs(), 0)
    assert read(finished(viewing(copied)), RunView) == before


@pytest.mark.parametrize(
    ("after", "limit"), [(0, 10_000), (0, 3), (5, 30), (40, 10_000), (10_000, 1)]
)
def test_a_history_is_told_in_pieces(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, after: int, limit: int
) -> None:
    run = kit.run()
    assert run.events > 50
    wanted = history_entries(run, run.history, after=after, limit=limit)
    numbers = list(range(after + 1, min(run.events, after + limit) + 1))
    assert [entry.number for entry in wanted] == numbers
    counted = Counted(monkeypatch, histories, "_entry")
    told = counted.finished(telling(run, run.history, after=after, limit=limit))
    assert read(told, list[HistoryEntry]) == wanted
    assert counted.most <= PIECE


def test_the_place_in_a_long_history_is_looked_for_in_pieces(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kit.run()
    counted = Counted(monkeypatch, histories, "chunk_first")
    read_all = Counted(monkeypatch, histories, "decode_chunk")
    while len(run.history) < 30:
        kit.complete(min(kit.dispatched()))
    counted.finished(telling(run, run.history, after=0, limit=1))
    assert counted.most <= PIECE < counted.all
    assert read_all.all == 1


def test_what_comes_twice_is_told_once(kit: Kit) -> None:
    run = kit.run()
    twice = [*run.history[:3], *run.history]
    entries = history_entries(run, twice, after=0, limit=10_000)
    assert [entry.number for entry in entries] == list(range(1, run.events + 1))


def test_a_past_is_folded_in_pieces(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    run = kit.run()
    # One chunk alone is many pieces.
    assert max(len(chunk.events) for chunk in map(past.decode_chunk, run.history)) > 2 * PIECE
    for event in (1, run.events // 2, run.events):
        for steps in (True, False):
            asked = GetRun(run="r", at_event=event, steps=steps)
            wanted = past_view(run.key, run.programs(), run.history, asked, shard=1)
            view = finished(viewing_past(run.key, run.programs(), run.history, asked, shard=1))
            assert read(view, RunView) == wanted
            assert wanted.events == event
    counted = Counted(monkeypatch, past, "apply_read")
    asked = GetRun(run="r", at_event=run.events, steps=False)
    counted.finished(viewing_past(run.key, run.programs(), run.history, asked, shard=1))
    assert counted.most <= PIECE < counted.all


def test_a_piece_counts_items_and_bytes() -> None:
    piece = Piece()
    assert [piece.full() for _ in range(2 * PIECE)] == ([False] * (PIECE - 1) + [True]) * 2
    assert piece.full(PIECE * 1_000_000)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_packed_items_are_a_list(count: int) -> None:
    packed = Packed()
    for number in range(count):
        packed.append({"n": number})
    assert read(packed.raw(), Any) == [{"n": number} for number in range(count)]
