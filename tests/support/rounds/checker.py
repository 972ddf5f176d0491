"""The judge: compares what clients saw and what a witness saw with the histories. Pure.

It shares no code with the system and knows nothing of how that works: operations are the lines that
clients wrote (`record`), histories are lists of events as users read them, the witness's lines were
written by the steps themselves (`steps`). What holds for which workflow stands in `Rules`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

Event = Mapping[str, Any]
"""`number`, `type`, `path`, `data` of one event of a history."""
Line = Mapping[str, Any]

RESULTS = ("StepCompleted", "StepFailed")
AGAIN = ("JobRestarted", "NodeRestarted")
"""What is below such a node begins anew: results of before do not count any more."""
TIMER_MS_MAX = 5
"""A timer of whole milliseconds may seem so much early on a finer clock."""


class Rules(NamedTuple):
    """What the workflows of the load promise."""

    ends: Mapping[str, Collection[str]]
    """Kind -> allowed final states; without an entry COMPLETED."""
    limits: Mapping[str, int]
    """Name of a key -> how many may hold it at a time."""
    orders: Mapping[str, Sequence[tuple[str, str]]]
    """Kind -> (path, path): what was recorded of the first ended before the second began."""
    fans: Mapping[str, tuple[str, int, str]]
    """Kind -> (loop, how many items, the step behind it)."""
    undone: Mapping[str, Sequence[str]]
    """Kind -> paths that are undone, in the order in which that must happen."""
    sleeps: Mapping[str, tuple[str, str, int]]
    """Kind -> (step before, step after, ms between them at least)."""
    turned: Collection[int] = ()
    """Rounds in which a clock was turned: timers follow clocks."""


class Violation(NamedTuple):
    """A broken promise."""

    rule: str
    run: str
    text: str


def check(
    operations: Sequence[Line],
    histories: Mapping[str, Sequence[Event] | None],
    witness: Sequence[Line],
    rules: Rules,
) -> list[Violation]:
    """Return every broken promise.

    *histories*: of each run that a client has named, None where the cluster knows no such run.
    """
    ran: dict[str, list[Line]] = defaultdict(list)
    for line in witness:
        ran[line["step"].split("/")[1]].append(line)
    asked: dict[str, list[Line]] = defaultdict(list)
    for operation in operations:
        asked[operation["run"]].append(operation)
    found: list[Violation] = []
    intervals: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for run, mine in asked.items():
        one = _Run(run, mine, histories.get(run), ran.get(run, []), rules)
        one.judge()
        if one.children:
            one.judge_children(histories)
        found += one.found
        for key, interval in one.held():
            intervals[key].append(interval)
    for key, held in intervals.items():
        found += _crowds(key, held, rules.limits.get(key, 1))
    return found


def check_schedule(
    times_ms: Sequence[tuple[str, int, str]], *, every_ms: int, since_ms: int, until_ms: int
) -> list[Violation]:
    """Return what is wrong with the runs of a schedule that catches up with every time.

    *times_ms*: (run, its nominal time, its state); each multiple of *every_ms* from *since_ms* to
    *until_ms* has one, and no run is of a time to come.
    """
    found = []
    by_time: dict[int, list[str]] = defaultdict(list)
    for run, nominal_ms, state in times_ms:
        by_time[nominal_ms].append(run)
        if state != "COMPLETED":
            found.append(Violation("schedules", run, f"it is {state}"))
        if nominal_ms > until_ms + every_ms:
            found.append(Violation("schedules", run, f"it has begun before its time {nominal_ms}"))
    first_ms = -(-since_ms // every_ms) * every_ms
    for time_ms in range(first_ms, until_ms + 1, every_ms):
        if len(by_time[time_ms]) != 1:
            found.append(Violation("schedules", "", f"runs of {time_ms}: {by_time[time_ms]}"))
    return found


def _crowds(key: str, intervals: Sequence[tuple[int, int, str]], limit: int) -> list[Violation]:
    """Return moments at which more than *limit* held a key."""
    edges = [(begin, 1, run) for begin, _, run in intervals]
    edges += [(end, -1, run) for _, end, run in intervals]
    inside: set[str] = set()
    for _, step, run in sorted(edges):
        if step < 0:
            inside.discard(run)
            continue
        inside.add(run)
        if len(inside) > limit:
            text = f"{sorted(inside)} held {key} at the same time, {limit} may"
            return [Violation("holders", run, text)]
    return []


class _Run:
    """What is known of one run, and what is wrong with it."""

    def __init__(
        self,
        run: str,
        operations: Sequence[Line],
        history: Sequence[Event] | None,
        witness: Sequence[Line],
        rules: Rules,
    ) -> None:
        self.run, self.operations, self.rules = run, operations, rules
        self.history: Sequence[Event] = history or ()
        self.missing = history is None
        kinds = [line["kind"] for line in operations if "kind" in line]
        self.kind = kinds[0] if kinds else ""
        self.rounds = {line["round"] for line in operations}
        self.found: list[Violation] = []
        self.results: dict[str, Event] = {}
        """Path -> the completion that counts."""
        self.children = [e["data"]["child"] for e in self.of("ChildStarted")]
        self.begun: dict[tuple[str, int], list[Line]] = defaultdict(list)
        self.ended: dict[tuple[str, int], Line] = {}
        for line in witness:
            place = (line["step"].split("/", 2)[2], line["attempt"])
            if line["event"] == "begin":
                self.begun[place].append(line)
            else:
                self.ended[place] = line

    def of(self, *types: str) -> list[Event]:
        """Return the events of these types."""
        return [event for event in self.history if event["type"] in types]

    def wrong(self, rule: str, text: str) -> None:
        """Note a broken promise."""
        self.found.append(Violation(rule, self.run, text))

    def judge(self) -> None:
        """Apply every rule."""
        self._present()
        if self.missing:
            return
        self._whole()
        self._acknowledged()
        self._recorded_once()
        self._ran()
        self._ended()
        self._answers()
        self._paused()
        self._order()

    # -- acknowledged => present -----------------------------------------------------------------

    def _present(self) -> None:
        accepted = [o for o in self.operations if o.get("outcome") == "ok"]
        if self.missing and accepted:
            self.wrong("lost", f"{accepted[0]['op']} was acknowledged, the run is unknown")
        for line in self.operations:
            if line["op"] == "lost" or line.get("said", "").startswith("NotFound"):
                self.wrong("lost", f"{line['op']} was answered {line['said']!r}")

    def _whole(self) -> None:
        numbers = [event["number"] for event in self.history]
        if numbers != list(range(1, len(numbers) + 1)):
            self.wrong("history", f"events are numbered {numbers}")
        if not self.history or self.history[0]["type"] != "RunCreated":
            self.wrong("history", "it does not begin with RunCreated")

    def _acknowledged(self) -> None:
        told = Counter(
            _operation(event, "payload" if event["type"] == "SignalReceived" else "output")
            for event in self.of("SignalReceived", "StepResolved")
        )
        types = {event["type"] for event in self.history}
        simple = {"cancel": "CancelRequested", "pause": "RunPaused", "resume": "RunResumed"}
        for line in self.operations:
            outcome, op = line.get("outcome"), line["op"]
            if op in ("signal", "resolve"):
                count = told[line["operation"]]
                allowed = {"ok": (1,), "refused": (0,), "unknown": (0, 1)}[outcome]
                if count not in allowed:
                    self.wrong("acknowledged", f"{op} {outcome}, {count} times in the history")
            elif op in simple and outcome == "ok" and simple[op] not in types:
                self.wrong("acknowledged", f"{op} was acknowledged, and is not in the history")

    # -- results ---------------------------------------------------------------------------------

    def _recorded_once(self) -> None:
        attempts: set[tuple[str, int]] = set()
        for event in self.history:
            path, kind = event.get("path", ""), event["type"]
            if kind in AGAIN:
                below = f"{path}/" if path else ""
                for old in [p for p in self.results if p.startswith(below)]:
                    del self.results[old]
            elif kind == "StepScheduled" and path in self.results:
                self.wrong("recorded once", f"{path} was given to a worker after its result")
            elif kind in RESULTS:
                attempt = (path, event["data"].get("attempt", 0))
                if attempt in attempts or path in self.results:
                    self.wrong("recorded once", f"{path} has a second result: {dict(event)}")
                attempts.add(attempt)
                if kind == "StepCompleted":
                    self.results[path] = event

    def _ran(self) -> None:
        scheduled = {
            (event["path"], event["data"]["attempt"]) for event in self.of("StepScheduled")
        }
        starts: Counter[str] = Counter()
        for (path, attempt), lines in self.begun.items():
            starts[path] += len(lines)
            if len(lines) > 1:
                self.wrong("ran once", f"attempt {attempt} of {path} began {len(lines)} times")
            if (path.partition("#")[0], attempt) not in scheduled:
                self.wrong("ran unasked", f"attempt {attempt} of {path} was never scheduled")
        once = {p for (p, _), lines in self.begun.items() if lines[0].get("what") == "once"}
        for path in once:
            if starts[path] > 1:
                self.wrong("at most once", f"{path} began {starts[path]} times")
        for path, event in self.results.items():
            nonce = (event["data"].get("output") or {}).get("nonce")
            line = self.ended.get((path, event["data"]["attempt"]))
            if nonce is not None and (line is None or line["nonce"] != nonce):
                self.wrong("results", f"{path} has a result that no step gave: {dict(event)}")

    def held(self) -> list[tuple[str, tuple[int, int, str]]]:
        """Return (key, (begin, end, run)) of recorded attempts that held one.

        Attempts that were called lost may still run somewhere: nobody can prevent that.
        """
        found = []
        for path, event in self.results.items():
            place = (path, event["data"]["attempt"])
            end, begins = self.ended.get(place), self.begun.get(place)
            if end is not None and begins and end.get("what", "").startswith("key "):
                found.append((end["what"][4:], (begins[0]["ns"], end["ns"], self.run)))
        return found

    # -- ends ------------------------------------------------------------------------------------

    def _ended(self) -> None:
        ends = self.of("RunEnded")
        if len(ends) != 1:
            self.wrong("ends", f"it has ended {len(ends)} times: {_tail(self.history)}")
            return
        state = ends[0]["data"]["state"]
        if state not in self.rules.ends.get(self.kind, ("COMPLETED",)):
            self.wrong("ends", f"it has ended as {state}: {_tail(self.history)}")
        elif self.kind == "once" and state == "FAILED" and not self.of("StepUnknown"):
            self.wrong("ends", f"it has failed, and no worker was lost: {_tail(self.history)}")

    def _answers(self) -> None:
        state = next((event["data"]["state"] for event in self.of("RunEnded")), None)
        known: dict[str, list[Any]] = defaultdict(list)
        for event in self.of("StepCompleted", "StepResolved", "NodeEnded", "ChildEnded"):
            known[event["path"]].append(event["data"].get("output") or {})
        for line in self.operations:
            if line["op"] != "view":
                continue
            if line["state"] in ("COMPLETED", "FAILED", "CANCELLED") and line["state"] != state:
                self.wrong("answers", f"a client was told {line['state']}, it is {state}")
            for path, output in line["outputs"].items():
                if path in known and (output or {}) not in known[path]:
                    self.wrong("answers", f"a client was told that {path} gave {output}")

    def _paused(self) -> None:
        paused = False
        for event in self.history:
            if event["type"] in ("RunPaused", "RunResumed"):
                paused = event["type"] == "RunPaused"
            elif paused and event["type"] == "StepScheduled":
                self.wrong("paused", f"{event['path']} was given to a worker during the pause")

    # -- shapes ----------------------------------------------------------------------------------

    def _span(self, path: str) -> tuple[int, int] | None:
        """Return when the recorded attempt of a step began and ended."""
        event = self.results.get(path)
        place = (path, event["data"]["attempt"]) if event else ("", 0)
        begins, end = self.begun.get(place), self.ended.get(place)
        return (begins[0]["ns"], end["ns"]) if begins and end else None

    def _order(self) -> None:
        pairs = list(self.rules.orders.get(self.kind, ()))
        if self.kind in self.rules.fans:
            pairs += self._fan(*self.rules.fans[self.kind])
        for first, second in pairs:
            before, after = self._span(first), self._span(second)
            if after is not None and before is None and first not in self._resolved():
                self.wrong("order", f"{second} has a result, {first} has none")
            elif before is not None and after is not None and after[0] < before[1]:
                self.wrong("order", f"{second} began before {first} ended")
        if self.kind in self.rules.sleeps and not self.rounds & set(self.rules.turned):
            first, second, ms = self.rules.sleeps[self.kind]
            before, after = self._span(first), self._span(second)
            if before and after and (after[0] - before[1]) / 1e6 < ms - TIMER_MS_MAX:
                self.wrong("timers", f"{second} began {(after[0] - before[1]) / 1e6:.0f} ms on")
        if self.kind in self.rules.undone:
            self._undone(self.rules.undone[self.kind])

    def _resolved(self) -> set[str]:
        return {event["path"] for event in self.of("StepResolved")}

    def _fan(self, loop: str, items: int, join: str) -> list[tuple[str, str]]:
        ends = [event for event in self.of("NodeEnded") if event["path"] == loop]
        done = [path for path in self.results if path.startswith(f"{loop}[")]
        if len(ends) != 1 or len(done) != items:
            self.wrong("joins", f"{loop} ended {len(ends)} times, {len(done)} of {items} items")
        return [(path, join) for path in done]

    def _undone(self, wanted: Sequence[str]) -> None:
        spans = [self._span(path) for path in wanted]
        if None in spans:
            self.wrong("sagas", f"not all of {list(wanted)} were run: {sorted(self.results)}")
            return
        for number, (one, other) in enumerate(pairwise(spans)):
            if one and other and other[0] < one[1]:
                self.wrong("sagas", f"{wanted[number + 1]} began before {wanted[number]} ended")

    def judge_children(self, histories: Mapping[str, Sequence[Event] | None]) -> None:
        """Each child has ended once, as its parent was told, and exists."""
        told = self.of("ChildEnded")
        if len(told) != len(self.children):
            self.wrong("children", f"{len(self.children)} began, {len(told)} ended")
        for child in self.children:
            events = histories.get(child) or ()
            ends = [e["data"]["state"] for e in events if e["type"] == "RunEnded"]
            if len(ends) != 1 or (told and told[-1]["data"]["status"] != ends[0]):
                self.wrong("children", f"{child} has ended so: {ends}, its parent says {told}")


def _operation(event: Event, field: str) -> Any:
    value = event["data"].get(field)
    return value.get("operation") if isinstance(value, Mapping) else None


def _tail(history: Sequence[Event]) -> list[str]:
    return [f"{event['type']} {event.get('path', '')}".strip() for event in history[-4:]]
