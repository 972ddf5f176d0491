"""One run with a long history: what its next step costs, and what looking at it does.

A repetition of 24 steps, by one core; every 256 KiB of its history go to an archive, as the owner
does it. CPU time of this thread only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator
from typing import Any

from bench.scale.shard import BUILTIN, Shard, cpu_s, in_pieces

from headrace.coordinator.core import encode_hashed, loading
from headrace.coordinator.core.explain import explain
from headrace.coordinator.core.histories import telling
from headrace.coordinator.core.past import copy_of, viewing_past
from headrace.coordinator.core.snapshot import encode_run
from headrace.coordinator.core.views import run_view, viewing
from headrace.coordinator.runtime.inbox import reply_of
from headrace.events import SegmentArchived, decode_chunk
from headrace.messages import GetRun, SubmitRun
from headrace.plan import Group, Loop, Node, Plan, Task

SEGMENT_BYTES = 256 * 1024
"""As `runtime.archiver` has it."""
WINDOW = 200
"""Steps of one figure."""
KEY = "default/long"
STEPS = 24
"""Of one repetition: there are at most 10,000."""
HISTORY_PAGE = 1_000
"""As the client asks for it."""


def _plan(times: int) -> Plan:
    nodes: tuple[Node, ...] = (
        Group(name="root", size=STEPS + 3),
        Loop(name="again", parent=0, size=STEPS + 2, kind="repeat", times=times),
        Group(name="body", parent=1, size=STEPS + 1, kind="pipeline"),
        *(
            Task(name=f"t{n}", parent=2, uses="noop", needs=(n + 2,) if n else ())
            for n in range(STEPS)
        ),
    )
    return Plan(name="long", dialect="tasks", nodes=nodes)


class Long:
    """The run, and the segments of its history that an archive has."""

    def __init__(self, events: int) -> None:
        self.shard = Shard()
        self.archived: list[bytes] = []
        digest = self.shard.store(_plan(events // (2 * STEPS) + 1))
        until_ms = self.shard.now_ms + 60_000
        self.shard.tick(SubmitRun(run="long", plan=digest, request_id="r", not_after_ms=until_ms))

    @property
    def run(self) -> Any:
        return self.shard.machine.state.runs[KEY]

    def step(self) -> None:
        """One step ends, the next one begins."""
        assert self.shard.work() == 1
        run = self.run
        if run is not None and run.history_bytes > SEGMENT_BYTES:
            self._archive(run)

    def _archive(self, run: Any) -> None:
        chunks = run.history[:-1]
        last = decode_chunk(chunks[-1])
        self.archived += chunks
        machine = self.shard.machine
        machine.begin(self.shard.now_ms)
        machine.emit(run, SegmentArchived(last.first + len(last.events)))
        machine.finish(batch_id="s", epoch=1)

    def until(self, events: int) -> None:
        """Go on until the history has *events*."""
        while self.run.events < events:
            self.step()
            assert self.run is not None, f"the run ended before {events} events"

    def window(self) -> float:
        """Return the median CPU of the next steps, in us."""
        took = []
        for _ in range(WINDOW):
            began = cpu_s()
            self.step()
            took.append((cpu_s() - began) * 1e6)
        return statistics.median(took)


def measure(lengths: list[int]) -> list[dict[str, Any]]:
    """Return a row of figures for each length of history."""
    long = Long(max(lengths) * 2)
    rows = []
    for length in lengths:
        long.until(length)
        row: dict[str, Any] = {"events": long.run.events, "step_us": long.window()}
        row.update(_looks(long))
        rows.append(row)
    return rows


def _looks(long: Long) -> dict[str, Any]:
    """What people ask of the run, and what a takeover has to read of it; in ms.

    What is done in pieces has the longest one, too (`…_hold_ms`): so long it holds a loop up.
    """
    run, state = long.run, long.shard.machine.state
    found: dict[str, Any] = {}

    def timed(name: str, action: Any) -> Any:
        began = cpu_s()
        result = action()
        found[f"{name}_ms"] = (cpu_s() - began) * 1_000
        return result

    def pieces(name: str, *parts: Any) -> None:
        result, took, longest = None, 0.0, 0.0
        for part in parts:
            figures, result = in_pieces(part(result))
            took, longest = took + figures["ms"], max(longest, figures["longest_ms"])
        found[f"{name}_ms"], found[f"{name}_hold_ms"] = took, longest

    timed("get", lambda: run_view(run, steps=False))
    timed("explain", lambda: explain(state, run))
    chunks = [*long.archived, *run.history]
    at = run.events // 2
    asked = GetRun(run="long", at_event=at, steps=True)
    pieces(
        "get_steps",
        lambda _: at_once(lambda: encode_run(run)),
        lambda data: at_once(lambda: copy_of(data, KEY, run.programs(), 0)),
        lambda copied: viewing(copied, shard=0),
        lambda view: at_once(lambda: reply_of(view)),
    )
    pieces(
        "history",
        lambda _: telling(run, chunks, after=at, limit=HISTORY_PAGE),
    )
    pieces(
        "past",
        lambda _: viewing_past(KEY, run.programs(), chunks, asked, shard=0),
        lambda view: at_once(lambda: reply_of(view)),
    )
    data, _ = timed("snapshot", lambda: encode_hashed(state))
    found["state_bytes"] = len(data)
    found["load_ms"] = in_pieces(loading(data, BUILTIN))[0]["ms"]
    return found


def at_once(action: Callable[[], Any]) -> Generator[None, None, Any]:
    """Return *action* as something that is done in one piece."""
    return action()
    yield
