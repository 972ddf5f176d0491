"""What is looked at now and then."""

from collections import Counter
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from headrace.coordinator.control.view import Assignment, ControlState, CoordinatorRecord
from headrace.coordinator.core import OutMessage, ShardState, status
from headrace.coordinator.core.ready import Lane, Timers
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.dispatch import Settings
from headrace.coordinator.dispatch.credit import Credits
from headrace.coordinator.dispatch.fleet import Fleet
from headrace.coordinator.dispatch.leases import Leases
from headrace.coordinator.runtime.observe import Observer
from headrace.coordinator.runtime.room import Room
from headrace.coordinator.runtime.survey import RUNS_A_LOOK, ControlSurvey, LaneSurvey, Survey
from headrace.coordinator.runtime.watch import Figures
from headrace.coordinator.shardlog.log import LogStatus
from headrace.messages import WorkerHeartbeat
from headrace.telemetry import CoordinatorMetrics

STATUS = {
    "level": "journal",
    "first": 1,
    "last": 50,
    "entries": 50,
    "bytes": 95,
    "bytes_max": 100,
    "synced": True,
}


@pytest.fixture
def metrics():
    return CoordinatorMetrics(CollectorRegistry())


# -- lanes -------------------------------------------------------------------------------------


def beat(name, *, slots=4, free=1, capabilities=("linux",), namespace="default"):
    return WorkerHeartbeat(
        version=1,
        id=name,
        incarnation="1",
        namespace=namespace,
        capabilities=list(capabilities),
        handlers={},
        slots=slots,
        free=free,
        started_ms=1,
        sent_ms=1,
        release="",
        host="",
        held={},
        lanes=[],
    )


class Dispatch:
    """A dispatcher's figures."""

    def __init__(self):
        self.fleet, self.credits = Fleet(3_000), Credits(Settings())
        self.lanes = SimpleNamespace(
            messages=3, message_bytes=900, repeats=2, refusals=5, pending_bytes=70, losses=1
        )
        self.oversized = SimpleNamespace(stored=6)
        self.shards = {}
        self.lane_capabilities = {("default", "d1"): ("linux",)}
        self.missing_since = {"gpu": 1}
        self.message_tasks_seen = Counter({3: 2})
        self.heartbeats, self.workers_lost, self.unheld = 8, 9, 4
        self.heard_upto_ms = 9_500

    def share(self):
        return 0.5

    def now_ms(self):
        return 10_000


def server_of(dispatcher, *lanes, leases=None):
    ready = SimpleNamespace(lanes={lane.name: lane for lane in lanes})
    shard = SimpleNamespace(
        owner=SimpleNamespace(machine=SimpleNamespace(ready=ready)),
        dispatch=SimpleNamespace(leases=leases or Leases(0)),
    )
    dispatcher.shards[0] = shard.dispatch
    return SimpleNamespace(dispatcher=dispatcher, shards={0: shard})


def lane(name, *capabilities, since=()):
    made = Lane(name, "default", capabilities)
    for since_ms in since:
        made.push(SimpleNamespace(fair_key=""), 1, since_ms, 0)
    return made


def test_lanes_are_named_by_what_they_need(metrics):
    dispatcher = Dispatch()
    for name, capabilities in (("a", ("linux", "gpu")), ("b", ("Linux",)), ("c", ("mac",))):
        dispatcher.fleet.heard(beat(name, capabilities=capabilities), 9_000)
    lanes = (
        lane("d1", "linux", since=(2_000, 3_000)),
        lane("d2", "Linux", "gpu"),
        lane("d3"),
        lane("@w-1", "linux", since=(1_000,)),
    )
    survey = LaneSurvey(metrics)
    survey.look(server_of(dispatcher, *lanes), 5_000)
    names = ("linux", "gpu,linux", "any", "pinned")
    assert [metrics.lane_ready_steps.value("default", name) for name in names] == [2, 0, 0, 1]
    assert metrics.lane_oldest_ready_seconds.value("default", "linux") == 3
    assert metrics.lane_oldest_ready_seconds.value("default", "pinned") == 4
    assert [metrics.lane_workers.value("default", name) for name in names[:3]] == [2, 1, 3]
    assert metrics.lane_slots.value("default", "linux") == 8
    assert metrics.lane_free_slots.value("default", "linux") == 2
    assert metrics.lane_window_steps.value("default", "linux") == 6, "half of 8 slots and 4 more"
    survey.look(server_of(dispatcher, lanes[2]), 6_000)
    assert ("default", "linux") not in metrics.lane_ready_steps._children
    assert ("default", "linux") not in metrics.lane_workers._children


def test_ten_thousand_ready_steps_are_seen_whatever_is_sent(metrics):
    dispatcher = Dispatch()
    dispatcher.fleet.heard(beat("w", slots=1), 9_000)
    many = lane("d1", "linux", since=range(1, 10_001))
    LaneSurvey(metrics).look(server_of(dispatcher, many), 20_000)
    assert metrics.lane_ready_steps.value("default", "linux") == 10_000
    assert metrics.lane_slots.value("default", "linux") == 1


def test_what_is_sent_counts_by_lane_and_age(metrics):
    dispatcher, leases = Dispatch(), Leases(0)
    leases.begin("default/r", 1, 1, lane="d1", wire_lane="d1", now_ms=7_000)
    leases.begin("default/r", 2, 1, lane="d1", wire_lane="d1", now_ms=8_000)
    leases.begin("default/r", 3, 1, lane="", wire_lane="", now_ms=8_000)
    LaneSurvey(metrics).look(server_of(dispatcher, lane("d1", "linux"), leases=leases), 9_000)
    assert metrics.lane_dispatched_steps.value("default", "linux") == 2
    assert metrics.lane_dispatched_steps.value("", "adopted") == 1
    assert metrics.steps_dispatched.value() == 3
    assert metrics.oldest_dispatched_seconds.value() == 3


def test_totals_of_the_dispatcher_are_taken_over(metrics):
    dispatcher = Dispatch()
    dispatcher.fleet.heard(beat("w"), 9_000)
    survey = LaneSurvey(metrics)
    for _ in range(2):
        survey.look(server_of(dispatcher), 0)
    assert metrics.task_messages.value() == 3
    assert metrics.task_bytes.value() == 900
    assert metrics.task_repeats.value() == 2
    assert metrics.task_refusals.value() == 5
    assert metrics.task_pending_bytes.value() == 70
    assert metrics.stream_losses.value() == 1
    assert metrics.oversized.value() == 6
    assert metrics.steps_unheld.value() == 4
    assert metrics.message_tasks.count() == 2, "counted once"
    assert metrics.credit_share.value() == 0.5
    assert metrics.missing_capabilities.value() == 1
    assert metrics.hearing_lag_seconds.value() == 0.5
    assert metrics.worker_heartbeats.value() == 8
    assert metrics.workers_lost.value() == 9
    assert metrics.worker_silence_seconds.value() == 1
    assert metrics.fleet_free_slots.value("default") == 1


def test_a_namespace_without_workers_is_at_zero_and_not_gone(metrics):
    dispatcher, survey = Dispatch(), LaneSurvey(metrics)
    dispatcher.fleet.heard(beat("w"), 9_000)
    survey.look(server_of(dispatcher), 0)
    assert metrics.fleet_workers.value("default") == 1
    dispatcher.fleet.workers.clear()
    survey.look(server_of(dispatcher), 0)
    assert metrics.fleet_workers.value("default") == 0


# -- shards and answers ------------------------------------------------------------------------


def owner_of(*, parked=0, room=None, position=50, timer_ms=0):
    state = ShardState(0)
    state.batch_position = state.batch_index = position
    for number in range(parked):
        state.runs.park(f"default/r{number}", b"", "waiting")
    state.outbox["acquire:k:h"] = OutMessage("k", "acquire", ["k", "h"])
    state.snapshots = [(20, "a", ""), (30, "b", "")]
    timers = Timers()
    if timer_ms:
        timers.push(timer_ms, "default/r", 1)
    machine = SimpleNamespace(state=state, timers=timers, ready=SimpleNamespace(lanes={}))
    figures = Figures(10, 2, 3, 4_000, room or Room())
    return SimpleNamespace(machine=machine, figures=lambda: figures)


def whole(shard, now_ms=10_000):
    server = control(ControlState())
    server.clock = SimpleNamespace(monotonic=lambda: 9.0, now_ms=lambda: now_ms)
    server.shards = {0: shard}
    server.replies = SimpleNamespace(sent=7, failed=2, kept_bytes=512)
    server.questions_open, server.asked = 1, {"info": 5, "archive": 0}
    server.dispatcher = None
    return server


def shard_of(owner, problem=""):
    log = SimpleNamespace(epoch=12)
    return SimpleNamespace(owner=owner, log=log, follower=None, dispatch=None, problem=problem)


def test_what_an_owner_has_is_shown_and_goes_with_it(metrics):
    survey = Survey(Observer(metrics))
    room = Room()
    room.measured(LogStatus(**STATUS), 0)
    owner = owner_of(parked=2, room=room, timer_ms=8_500)
    survey.look(whole(shard_of(owner, "no leader")))
    assert metrics.shard_epoch.value("0") == 12
    assert metrics.runs_parked.value("0") == 2
    assert metrics.log_full.value("0") == 1
    assert metrics.log_tail_entries.value("0") == 20, "behind the newest snapshot"
    assert metrics.timer_overdue_seconds.value() == 1.5
    assert metrics.archive_waiting.value() == 3
    assert metrics.archive_lag_seconds.value() == 6
    assert metrics.waiters.value() == 2
    assert metrics.inbox_bytes.value() == 10
    assert metrics.outbox_messages.value("0") == 1
    assert metrics.shards_troubled.value() == 1
    survey.look(whole(shard_of(None)))
    assert ("0",) not in metrics.log_full._children
    assert metrics.shards_owned.value() == 0
    assert metrics.shards_troubled.value() == 0
    assert metrics.timer_overdue_seconds.value() == 0


class CountedRuns(Runs):
    """Live runs that count how often one is looked at."""

    __slots__ = ("looks",)

    def __init__(self, count):
        super().__init__()
        self.looks = 0
        run = SimpleNamespace(
            state=status.RUNNING, quarantined="", journal=None, paused=False, active=1, status=b""
        )
        self.update(dict.fromkeys(map(str, range(count)), run))

    def record(self, key):
        self.looks += 1
        return super().record(key)


@pytest.mark.parametrize(("shards", "each"), [(1, RUNS_A_LOOK), (8, RUNS_A_LOOK // 8)])
def test_a_look_at_the_runs_is_bounded_however_many_there_are(metrics, shards, each):
    survey, owners = Survey(Observer(metrics)), [owner_of() for _ in range(shards)]
    for owner in owners:
        owner.machine.state.runs = CountedRuns(2 * each + 1)
    server = whole(shard_of(None))
    server.shards = {number: shard_of(owner) for number, owner in enumerate(owners)}
    for look in range(1, 4):
        survey.look(server)
        assert {owner.machine.state.runs.looks for owner in owners} == {
            min(look * each, 2 * each + 1)
        }
    assert metrics.runs.value("running") == shards * (2 * each + 1)


@pytest.mark.parametrize(("bytes", "full"), [(70, 0), (85, 0.5), (95, 1)])
def test_how_full_a_log_is(metrics, bytes, full):
    room = Room()
    room.measured(LogStatus(**STATUS | {"bytes": bytes}), 0)
    Survey(Observer(metrics)).look(whole(shard_of(owner_of(room=room))))
    assert metrics.log_full.value("0") == full


def test_answers_are_counted(metrics):
    survey = Survey(Observer(metrics))
    for _ in range(2):
        survey.look(whole(shard_of(None)))
    assert metrics.replies.value() == 7
    assert metrics.replies_failed.value() == 2
    assert metrics.replies_kept_bytes.value() == 512
    assert metrics.questions.value("info") == 5
    assert metrics.questions_open.value() == 1


# -- the control plane -------------------------------------------------------------------------


def control(view, **status):
    figures = {
        "controller": "c0",
        "term": 3,
        "view": 7,
        "ruling": True,
        "log_entries": 5,
        "rebuilds": {},
        "refused": {},
        "expected": 3,
        "silence_s": 0.25,
    } | status
    return SimpleNamespace(
        control=SimpleNamespace(
            status=lambda: SimpleNamespace(**figures),
            is_controller=False,
            living_coordinators=lambda: [1, 2],
            view=view,
            standby=frozenset((1,)),
        ),
        layout=SimpleNamespace(shards=(0, 1, 2)),
        skew=SimpleNamespace(ms=40),
        config=SimpleNamespace(coordinator=SimpleNamespace(clock_skew_ms_max=5_000)),
        synced=False,
        common_level=lambda: 4,
    )


def view_of(owners, **statuses):
    return ControlState(
        coordinators={
            name: CoordinatorRecord(id=name, incarnation="i", status=status)
            for name, status in statuses.items()
        },
        shards={
            number: Assignment(owner=owner, incarnation="i", generation=1)
            for number, owner in owners.items()
        },
    )


def test_shards_without_a_live_owner_and_changes_of_owners(metrics):
    survey = ControlSurvey(metrics)
    survey.look(control(view_of({0: "c0", 1: "c1"}, c0="online", c1="offline")))
    assert metrics.shards_unassigned.value() == 2, "one has none, another one's is gone"
    assert metrics.shard_moves.value() == 0
    survey.look(control(view_of({0: "c1", 1: "c1", 2: "c0"}, c0="online", c1="online")))
    assert metrics.shards_unassigned.value() == 0
    assert metrics.shard_moves.value() == 1
    assert metrics.shards_expected.value() == 3
    assert metrics.coordinators_living.value() == 2
    assert metrics.nodes.value("coordinator", "online") == 2


def test_refusals_go_on_when_a_replica_begins_anew(metrics):
    survey, view = ControlSurvey(metrics), view_of({})
    for refused in ({"old": 4}, {"old": 6}, {"old": 1}, {"old": 1}):
        survey.look(control(view, refused=refused, rebuilds={"stuck": 2}))
    assert metrics.control_refused.value("old") == 7
    assert metrics.control_rebuilds.value("stuck") == 2


def test_the_controller_s_changes_are_counted(metrics):
    survey, view = ControlSurvey(metrics), view_of({})
    for name in ("c0", "c0", "", "c1"):
        survey.look(control(view, controller=name))
    assert metrics.controller_changes.value() == 3
    assert metrics.controller_known.value() == 1
