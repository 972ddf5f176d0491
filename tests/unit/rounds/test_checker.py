"""The judge of the chaos rounds: a good story is good, and every broken promise is seen."""

import copy

import pytest

from support.rounds.checker import Rules, check, check_schedule

RULES = Rules(
    ends={"saga": ("FAILED",), "cancelled": ("CANCELLED",), "once": ("COMPLETED", "FAILED")},
    limits={"deploy": 1},
    orders={"plain": [("a", "b")]},
    fans={"fan": ("each", 2, "join")},
    undone={"saga": ["b~compensate", "a~compensate"]},
    sleeps={"timer": ("before", "after", 500)},
    turned={7},
)


class Story:
    """One run: what its history, its client and the witness say."""

    def __init__(self, kind, run="r", *, at=0):
        self.kind, self.run, self.ns = kind, run, at
        self.history, self.witness, self.operations = [], [], []
        self.event("RunCreated")
        self.client("submit")

    def event(self, type, path="", **data):
        number = len(self.history) + 1
        self.history.append({"number": number, "type": type, "path": path, "data": data})

    def client(self, op, outcome="ok", **more):
        facts = {"op": op, "run": self.run, "round": 1, "kind": self.kind, "outcome": outcome}
        self.operations.append({**facts, "said": "", **more})

    def view(self, state, outputs):
        self.client("view", state=state, outputs=outputs)

    def run_step(self, path, attempt=1, *, what="", result="StepCompleted", ms=10):
        self.event("StepScheduled", path, attempt=attempt)
        self.execute(path, attempt, what=what, ms=ms)
        if result:
            output = {"nonce": f"{self.run}-{path}-{attempt}"} if "Completed" in result else {}
            self.event(result, path, attempt=attempt, output=output)

    def execute(self, path, attempt=1, *, what="", ms=10):
        line = {"step": f"default/{self.run}/{path}", "attempt": attempt, "what": what}
        line |= {"nonce": f"{self.run}-{path}-{attempt}"}
        self.witness.append({**line, "event": "begin", "ns": self.ns})
        self.ns += ms * 10**6
        self.witness.append({**line, "event": "end", "ns": self.ns})
        self.ns += 10**6

    def end(self, state="COMPLETED"):
        self.event("RunEnded", state=state)
        return self


def found(*stories, rules=RULES, lost=()):
    """Return the rules that are broken."""
    histories = {s.run: None if s.run in lost else s.history for s in stories}
    operations = [line for s in stories for line in s.operations]
    witness = [line for s in stories for line in s.witness]
    return [v.rule for v in check(operations, histories, witness, rules)]


def plain():
    story = Story("plain")
    story.run_step("a")
    story.run_step("b")
    story.client("signal", operation="o1")
    story.event("SignalReceived", payload={"operation": "o1"})
    story.client("signal", outcome="unknown", operation="o2")
    story.view("COMPLETED", {"a": {"nonce": "r-a-1"}, "b": {"nonce": "r-b-1"}})
    return story.end()


def test_a_good_story_is_good():
    assert found(plain()) == []


def test_a_lost_attempt_that_runs_again_is_good():
    story = Story("plain")
    story.run_step("a", result="StepLost")
    story.run_step("a", 2)
    story.run_step("b")
    assert found(story.end()) == []


def test_a_job_that_begins_anew_has_its_results_again():
    story = Story("job")
    story.run_step("it/one")
    story.event("JobRestarted", "it")
    story.run_step("it/one", 2)
    assert found(story.end()) == []


def broken(change):
    story = plain()
    change(story)
    return found(story)


def drop(type, path=None):
    def change(story):
        kept = [e for e in story.history if e["type"] != type or path not in (None, e["path"])]
        for number, event in enumerate(kept, 1):
            event["number"] = number
        story.history = kept

    return change


def again(type, path=""):
    def change(story):
        event = next(e for e in story.history if e["type"] == type and e["path"] in ("", path))
        twin = copy.deepcopy(event)
        story.history.insert(-1, twin)
        for number, event in enumerate(story.history, 1):
            event["number"] = number

    return change


def told_another_end(story):
    story.view("FAILED", {})


def told_another_output(story):
    story.view("RUNNING", {"a": {"nonce": "other"}})


def not_found(story):
    story.client("signal", outcome="refused", said="NotFound: no run r", operation="o3")


def refused_and_done(story):
    story.operations[1]["outcome"] = "refused"


def hole(story):
    del story.history[2]


def scheduled_after_its_result(story):
    story.history[-1]["number"] += 1
    event = {"number": story.history[-1]["number"] - 1, "type": "StepScheduled", "path": "a"}
    story.history.insert(-1, {**event, "data": {"attempt": 2}})


def result_of_nobody(story):
    story.witness = [line for line in story.witness if not line["step"].endswith("/a")]


def result_of_another(story):
    story.history[2]["data"]["output"] = {"nonce": "other"}


def ran_unasked(story):
    story.execute("c")


def ran_twice(story):
    story.execute("a")


def never_begun(story):
    """The second step's result is there, the first one's is not."""
    drop("StepCompleted", "a")(story)
    drop("StepScheduled", "a")(story)
    story.witness = [line for line in story.witness if not line["step"].endswith("/a")]


def wrong_order(story):
    for line in story.witness[2:]:
        line["ns"] -= 10**9


def cancel_forgotten(story):
    story.client("cancel")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (drop("RunCreated"), "history"),
        (hole, "history"),
        (drop("SignalReceived"), "acknowledged"),
        (again("SignalReceived"), "acknowledged"),
        (refused_and_done, "acknowledged"),
        (cancel_forgotten, "acknowledged"),
        (not_found, "lost"),
        (again("StepCompleted", "a"), "recorded once"),
        (scheduled_after_its_result, "recorded once"),
        (result_of_nobody, "results"),
        (result_of_another, "results"),
        (ran_unasked, "ran unasked"),
        (ran_twice, "ran once"),
        (drop("RunEnded"), "ends"),
        (again("RunEnded"), "ends"),
        (told_another_end, "answers"),
        (told_another_output, "answers"),
        (never_begun, "order"),
        (wrong_order, "order"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__qualname__.split(".")[0],
)
def test_a_broken_promise_is_seen(change, rule):
    assert rule in broken(change)


def test_an_acknowledged_run_that_is_unknown_is_lost():
    assert found(plain(), lost={"r"}) == ["lost"]


def test_a_run_of_unknown_outcome_may_be_unknown():
    story = plain()
    for line in story.operations:
        line["outcome"] = "unknown"
    assert found(story, lost={"r"}) == []


def test_two_holders_of_one_key_are_a_crowd():
    one, other = Story("single", "one"), Story("single", "other", at=5 * 10**6)
    for story in (one, other):
        story.run_step("hold", what="key deploy")
        story.end()
    assert found(one, other) == ["holders"]
    assert found(one, other, rules=RULES._replace(limits={"deploy": 2})) == []


def test_a_lost_attempt_is_no_holder():
    one, other = Story("single", "one"), Story("single", "other", at=5 * 10**6)
    one.run_step("hold", what="key deploy", result="StepLost", ms=500)
    one.run_step("hold", 2, what="key deploy")
    other.run_step("hold", what="key deploy")
    assert found(one.end(), other.end()) == []


def test_a_step_that_may_begin_once_begins_once():
    story = Story("once")
    story.run_step("pay", what="once", result="StepLost")
    story.run_step("pay", 2, what="once")
    assert found(story.end()) == ["at most once"]


def test_a_failure_needs_a_reason():
    story = Story("once")
    story.run_step("pay", what="once", result="")
    assert found(copy.deepcopy(story).end("FAILED")) == ["ends"]
    story.event("StepUnknown", "pay", attempt=1)
    assert found(story.end("FAILED")) == []


def test_a_paused_run_gives_no_step_to_a_worker():
    story = Story("plain")
    story.client("pause")
    story.run_step("a")
    story.event("RunPaused")
    story.run_step("b")
    story.event("RunResumed")
    assert found(story.end()) == ["paused"]


@pytest.mark.parametrize(
    ("items", "ends", "rules"), [(2, 1, []), (1, 1, ["joins"]), (2, 2, ["joins"])]
)
def test_a_loop_joins_once_and_whole(items, ends, rules):
    story = Story("fan")
    for item in range(items):
        story.run_step(f"each[{item}]/it")
    for _ in range(ends):
        story.event("NodeEnded", "each", status="COMPLETED")
    story.run_step("join")
    assert found(story.end()) == rules


@pytest.mark.parametrize(
    ("undone", "rules"),
    [
        (["b~compensate", "a~compensate"], []),
        (["a~compensate", "b~compensate"], ["sagas"]),
        (["b~compensate"], ["sagas"]),
    ],
)
def test_a_saga_is_undone_from_its_end(undone, rules):
    story = Story("saga")
    for path in ("a", "b", *undone):
        story.run_step(path)
    assert found(story.end("FAILED")) == rules


@pytest.mark.parametrize(
    ("ms", "round_number", "rules"), [(500, 1, []), (300, 1, ["timers"]), (300, 7, [])]
)
def test_a_timer_is_not_early_unless_a_clock_was_turned(ms, round_number, rules):
    story = Story("timer")
    story.run_step("before")
    story.ns += ms * 10**6
    story.run_step("after")
    story.operations[0]["round"] = round_number
    assert found(story.end()) == rules


@pytest.mark.parametrize(("told", "is_"), [("COMPLETED", "FAILED"), ("COMPLETED", None)])
def test_a_child_has_ended_as_its_parent_says(told, is_):
    parent, child = Story("parent"), Story("chain", "r.child")
    parent.event("ChildStarted", "child", child="r.child")
    parent.event("ChildEnded", "child", status=told)
    parent.end()
    histories = {"r": parent.history, "r.child": child.end(is_).history if is_ else None}
    rules = [v.rule for v in check(parent.operations, histories, [], RULES)]
    assert rules == ["children"]


GOOD = [("r1", 60_000, "COMPLETED"), ("r2", 120_000, "COMPLETED")]


@pytest.mark.parametrize(
    ("runs", "wrong"),
    [
        (GOOD, 0),
        (GOOD[:1], 1),
        ([*GOOD, ("r3", 120_000, "COMPLETED")], 1),
        ([*GOOD, ("r9", 540_000, "COMPLETED")], 1),
        ([GOOD[0], ("r2", 120_000, "RUNNING")], 1),
    ],
)
def test_each_time_of_a_schedule_has_one_run(runs, wrong):
    found = check_schedule(runs, every_ms=60_000, since_ms=30_000, until_ms=150_000)
    assert [v.rule for v in found] == ["schedules"] * wrong
