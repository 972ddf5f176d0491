"""One run with a long history: what its next step costs, and what looking at it does.

A repetition of 24 steps, by one core; every 256 KiB of its history go to an archive, as the owner
does it. CPU time of this thread only.
"""

from __future__ import annotations

import statistics
from typing import Any

from headrace.coordinator.core import encode_hashed, loading
from headrace.coordinator.core.explain import explain
from headrace.coordinator.core.past import past_view
from headrace.coordinator.core.views import history_entries, run_view
from headrace.events import SegmentArchived, decode_chunk
from headrace.messages import GetRun, SubmitRun
from headrace.plan import Group, Loop, Plan, Task
from scale.shard import BUILTIN, Shard, cpu_s, in_pieces

SEGMENT_BYTES = 256 * 1024
"""As `runtime.archiver` has it."""
WINDOW = 200
"""Steps of one figure."""
KEY = "default/long"
STEPS = 24
"""Of one repetition: there are at most 10,000."""


def _plan(times: int) -> Plan:
    nodes = (
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
        request = {"request_id": "r", "not_after_ms": self.shard.now_ms + 60_000}
        self.shard.tick(SubmitRun(run="long", plan=digest, **request))

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
    """What people ask of the run, and what a takeover has to read of it; in ms."""
    run, state = long.run, long.shard.machine.state
    found: dict[str, Any] = {}

    def timed(name: str, action: Any) -> Any:
        began = cpu_s()
        result = action()
        found[name] = (cpu_s() - began) * 1_000
        return result

    timed("get_ms", lambda: run_view(run, steps=False))
    timed("get_steps_ms", lambda: run_view(run, steps=True))
    timed("explain_ms", lambda: explain(state, run))
    chunks = [*long.archived, *run.history]
    after = run.events - 100
    timed("history_ms", lambda: history_entries(run, chunks, after=after, limit=100))
    asked = GetRun(run="long", at_event=run.events // 2, steps=False)
    timed("past_ms", lambda: past_view(KEY, run.programs(), chunks, asked, shard=0))
    data, _ = timed("snapshot_ms", lambda: encode_hashed(state))
    found["state_bytes"] = len(data)
    found["load_ms"] = in_pieces(loading(data, BUILTIN))[0]["ms"]
    return found
