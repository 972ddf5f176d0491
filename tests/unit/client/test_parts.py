"""Ids, routes, carried results, the development note."""

import os
import subprocess
import sys

import pytest

from headrace.client import (
    DevServer,
    RunIds,
    carried_results,
    clear_dev,
    dev_folder,
    read_dev,
    write_dev,
)
from headrace.client._follow import Doubles, chosen
from headrace.client._ids import RequestIds
from headrace.client._routes import Routes
from headrace.errors import InvalidRequest, Unavailable
from headrace.messages import LogLine, LogLines, ServerInfo, StepView, decode, subjects
from headrace.plan import Group, Loop, Plan, Task


def test_run_ids_are_names_that_sort_by_time_and_never_repeat():
    ids = RunIds()
    made = [ids.next(1_000), ids.next(1_000), ids.next(1_001), ids.next(900), ids.next(2_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(subjects.valid_name(run) and len(run) == 26 for run in made)
    assert made == [run.lower() for run in made]


def test_ids_of_two_clients_differ():
    assert RunIds().next(5) != RunIds().next(5)
    assert RequestIds().next() != RequestIds().next()


def test_request_ids_count():
    ids = RequestIds()
    assert len({ids.next() for _ in range(1_000)}) == 1_000


def info(**fields):
    return ServerInfo(version=1, release="x", **fields)


def test_routes_follow_the_run_length_map():
    routes = Routes(info(slots=[7, 1000, 8, 3096], level_shards={"memory": [9, 10]}))
    for name in ("a", "b", "c", "d", "e", "f"):
        slot = subjects.slot_of(name)
        assert routes.shard(name) == (7 if slot < 1000 else 8)
        assert routes.shard(name, "memory") == (9, 10)[slot % 2]
    assert routes.levels() == ["journal", "memory"]
    assert routes.all_shards() == [7, 8, 9, 10]


def test_routes_refuse_what_is_not_there():
    with pytest.raises(Unavailable):
        Routes(info(slots=[1, 4095]))
    routes = Routes(info(slots=[1, 4096]))
    with pytest.raises(Unavailable):
        routes.shard("a", "snapshot")
    with pytest.raises(InvalidRequest):
        routes.shard("a", "paper")


PLAN = Plan(
    name="p",
    nodes=(
        Group(name="p", size=8),
        Group(name="build", kind="job", affinity=True, parent=0, size=3),
        Task(name="checkout", uses="shell", parent=1),
        Task(name="test", uses="shell", parent=1),
        Loop(name="each", items=[1, 2], parent=0, size=3),
        Group(name="pack", kind="job", affinity=True, parent=4, size=2),
        Task(name="zip", uses="shell", parent=5),
        Task(name="alone", uses="noop", parent=0),
    ),
)


def view(path, state="COMPLETED", outputs=None, kind="task"):
    return StepView(path=path, state=state, outputs=outputs, kind=kind)


def carried(*views):
    found = carried_results(views, PLAN)
    return {path: decode(dict, data) for path, data in found.items()}


def test_completed_steps_are_carried_with_their_outputs():
    assert carried(
        view("build", kind="job"),
        view("build/checkout", outputs={"sha": "1"}),
        view("build/test"),
        view("alone", "FAILED"),
    ) == {"build/checkout": {"sha": "1"}, "build/test": {}}


def test_a_job_that_did_not_end_well_is_run_again_as_a_whole():
    assert carried(
        view("build/checkout"), view("build/test", "FAILED"), view("alone", outputs={"x": 1})
    ) == {"alone": {"x": 1}}


def test_each_instance_of_a_repeated_job_is_judged_alone():
    kept, again = view("each[a/b]/zip"), view("each[2]/zip", "CANCELLED")
    assert list(carried(kept, again)) == ["each[a/b]/zip"]


def test_only_tasks_are_carried():
    assert carried(view("alone", kind="wait", outputs={"by": "me"})) == {}


def test_skipped_steps_do_not_force_a_job_to_run_again():
    assert list(carried(view("build/checkout"), view("build/test", "SKIPPED"))) == [
        "build/checkout"
    ]


def lines(first, *texts, attempt=1):
    return LogLines(
        1,
        "default/r",
        3,
        "build/test",
        attempt,
        first,
        [LogLine(0, "stdout", text) for text in texts],
    )


def test_lines_that_were_seen_are_dropped():
    doubles = Doubles()
    assert doubles.fresh(lines(0, "a", "b")) == lines(0, "a", "b")
    assert doubles.fresh(lines(0, "a", "b")) is None
    assert doubles.fresh(lines(1, "b", "c")) == lines(2, "c")
    assert doubles.fresh(lines(0, "a", attempt=2)) == lines(0, "a", attempt=2)


def test_steps_are_chosen_by_path_parent_or_last_part():
    assert chosen("build/test", "")
    assert chosen("build/test", "build")
    assert chosen("build/test", "test")
    assert not chosen("build/test", "tes")
    assert not chosen("rebuild/test", "build")


def test_the_note_of_dev_is_found_and_only_its_writer_clears_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert read_dev() is None
    note = DevServer(server="nats://127.0.0.1:4222", dir="/d", pid=os.getpid(), started_ms=5)
    write_dev(note)
    assert read_dev() == note
    (path,) = dev_folder().iterdir()
    assert dev_folder() == tmp_path / "headrace" / "dev"
    assert path.stat().st_mode & 0o077 == 0
    clear_dev(note.pid + 1)
    assert read_dev() == note
    clear_dev(note.pid)
    assert read_dev() is None
    path.write_text("{")
    assert read_dev() is None


def test_of_several_devs_the_newest_that_runs_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        older = DevServer(server="nats://127.0.0.1:1", pid=os.getpid(), started_ms=5)
        newer = DevServer(server="nats://127.0.0.1:2", pid=other.pid, started_ms=6)
        write_dev(newer)
        write_dev(older)
        assert read_dev() == newer
        other.communicate(b"\n", timeout=30)
    assert read_dev() == older
    clear_dev(older.pid)
    # It was killed; a connection will tell.
    assert read_dev() == newer
    write_dev(older)
    assert len(list(dev_folder().iterdir())) == 1
