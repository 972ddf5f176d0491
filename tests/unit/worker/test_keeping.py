"""Masks, logs, workspaces, identity, the registry of handlers."""

from __future__ import annotations

import asyncio
import os
import types
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from headrace.errors import Conflict, InvalidConfig, InvalidRequest
from headrace.messages import LogLine, Task
from headrace.telemetry import SystemClock
from headrace.worker.core import Origin
from headrace.worker.handlers import Context, Handler, Registry, handler
from headrace.worker.identity import DataDirLock, stable_id
from headrace.worker.masks import MASKS_MAX, Masker
from headrace.worker.steplog import LogLimits, Spool
from headrace.worker.workspaces import WorkspaceLimits, Workspaces, segment
from support.worker_owner import make_task

# -- masks -------------------------------------------------------------------------------------


def test_longest_value_goes_as_a_whole_and_lines_one_by_one() -> None:
    masker = Masker(["abc", "abcdef", "line one\nline two"])
    assert masker.text("x abcdef abc y") == "x *** *** y"
    assert masker.text("line two!") == "***!"
    assert masker.text("x") == "x"


def test_masks_in_packed_values_keys_and_nested() -> None:
    masker = Masker(["sekret"])
    packed = msgspec.msgpack.encode({"sekret": [1, {"x": "a sekret b"}], "n": 5})
    assert msgspec.msgpack.decode(masker.packed(packed)) == {"***": [1, {"x": "a *** b"}], "n": 5}
    clean = msgspec.msgpack.encode({"n": 5})
    assert masker.packed(clean) is clean


def test_masks_are_bounded_and_ignore_what_is_too_short() -> None:
    masker = Masker(["", "x", " "])
    assert not masker
    assert all(masker.add(f"value-{n}") for n in range(MASKS_MAX))
    assert not masker.add("one more")
    assert masker.add("value-1")


# -- logs --------------------------------------------------------------------------------------


class Lines:
    def __init__(self) -> None:
        self.batches: list[tuple[int, list[str]]] = []
        self.arrived = asyncio.Event()

    def write(self, origin: Origin, task: Task, first: int, lines: Sequence[LogLine]) -> None:
        self.batches.append((first, [line.text for line in lines]))
        self.arrived.set()


def spool(sink: Lines, **limits) -> Spool:
    made = Spool(sink, SystemClock(), LogLimits(**limits))
    made.loop = asyncio.get_running_loop()
    return made


async def test_lines_are_numbered_across_batches() -> None:
    sink = Lines()
    log = spool(sink).open(Origin(0, "d"), make_task(), Masker())
    log.write("stdout", "a")
    log.write("stdout", "b")
    assert sink.batches == []
    await asyncio.wait_for(sink.arrived.wait(), 30)
    log.write("stdout", "c")
    log.flush()
    assert sink.batches == [(0, ["a", "b"]), (2, ["c"])]


async def test_full_batch_leaves_at_once() -> None:
    sink = Lines()
    log = spool(sink, batch_bytes=100).open(Origin(0, "d"), make_task(), Masker())
    log.write("stdout", "x" * 90)
    assert len(sink.batches) == 1


async def test_overflow_is_counted_and_long_lines_are_cut() -> None:
    sink = Lines()
    limits = {"pending_bytes_max": 100, "line_bytes_max": 20}
    log = spool(sink, **limits).open(Origin(0, "d"), make_task(), Masker())
    for _ in range(5):
        log.write("stdout", "y" * 30)
    log.flush()
    (_, lines) = sink.batches[0]
    assert lines[0] == "y" * 20 + "… (10 cut)"
    assert lines[-1] == "3 lines dropped: more output than can be kept"


async def test_threads_may_write() -> None:
    sink = Lines()
    log = spool(sink).open(Origin(0, "d"), make_task(), Masker())
    await asyncio.to_thread(log.write, "stdout", "from afar")
    await asyncio.wait_for(sink.arrived.wait(), 30)
    assert sink.batches == [(0, ["from afar"])]


# -- workspaces --------------------------------------------------------------------------------


def test_segments_are_safe_and_different() -> None:
    assert segment("build[linux]#0") == "build[linux]#0"
    assert segment("a/b") == "a%2Fb"
    assert segment("x" * 300) != segment("x" * 301)
    assert len(segment("x" * 300)) <= 120
    for bad in ("", ".", ".."):
        with pytest.raises(InvalidRequest):
            segment(bad)


@pytest.mark.parametrize(
    ("keep_ms", "count_max", "left"), [(1_000, 9, [0, 4]), (9_999, 2, [0, 3, 4])]
)
def test_sweep_keeps_what_is_new_or_in_use(
    tmp_path: Path, keep_ms: int, count_max: int, left: list[int]
) -> None:
    limits = WorkspaceLimits(keep_ms=keep_ms, count_max=count_max)
    old_life = Workspaces(tmp_path, "old", limits)
    left_over = old_life.for_step()
    workspaces = Workspaces(tmp_path, "new", limits)
    mine = workspaces.for_step()
    jobs = [workspaces.for_job(f"ns/run{n}/job#0") for n in range(5)]
    for n, job in enumerate(jobs):
        os.utime(job, (100 + n, 100 + n))
    assert workspaces.sweep(now_ms=104_500, in_use={jobs[0]}) == 6 - len(left)
    assert [n for n, job in enumerate(jobs) if job.exists()] == left
    assert not jobs[1].parent.exists()
    assert mine.exists()
    assert not left_over.exists()
    workspaces.close()
    assert not mine.exists()


def test_strange_keys_stay_inside(tmp_path: Path) -> None:
    workspaces = Workspaces(tmp_path, "i", WorkspaceLimits())
    path = workspaces.job_folder("ns/run/../../../etc#0")
    assert path.parent == tmp_path / "workspaces" / "ns" / "run"
    with pytest.raises(InvalidRequest):
        workspaces.job_folder("ns/../x")


# -- identity ----------------------------------------------------------------------------------


def test_id_lasts(tmp_path: Path) -> None:
    made = stable_id("", tmp_path)
    assert stable_id("", tmp_path) == made
    assert stable_id("own", tmp_path) == "own"
    with pytest.raises(InvalidConfig):
        stable_id("not a name", tmp_path)


def test_one_worker_a_folder(tmp_path: Path) -> None:
    first, second = DataDirLock(tmp_path), DataDirLock(tmp_path)
    first.acquire()
    with pytest.raises(Conflict, match="another worker"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


# -- the registry ------------------------------------------------------------------------------


class Wanted(msgspec.Struct):
    size: int


@handler("mine/one", version="7")
async def one(ctx: Context, inputs: Wanted) -> None:
    """Marked functions stay functions."""


def plain(ctx: Context, inputs: dict) -> dict:
    return inputs


def test_describes_what_is_not_built_in() -> None:
    registry = Registry()
    registry.add(one)
    described = registry.describe()
    assert described["mine/one"]["version"] == "7"
    assert "size" in str(described["mine/one"]["inputs"])
    assert asyncio.iscoroutinefunction(one)


@pytest.mark.parametrize("thing", [plain, 5, None])
def test_refuses_what_is_no_handler(thing: object) -> None:
    with pytest.raises(InvalidConfig):
        Registry().add(thing)


def test_names_are_taken_once() -> None:
    registry = Registry()
    registry.add(one)
    with pytest.raises(InvalidConfig, match="two handlers"):
        registry.add(one)


def test_wrong_signature_is_refused_when_defined() -> None:
    with pytest.raises(InvalidConfig, match="parameters"):
        Handler("x", lambda ctx: None)


def test_app_is_anything_with_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("some_app")
    module.app = types.SimpleNamespace(handlers={"a": plain, "b": one})
    module.empty = object()
    monkeypatch.setitem(__import__("sys").modules, "some_app", module)
    registry = Registry()
    registry.add_app("some_app:app")
    assert sorted(registry.describe()) == ["a", "b"]
    for bad in ("some_app:empty", "some_app:none", "nonesuch_module:x", "some_app"):
        with pytest.raises(InvalidConfig):
            Registry().add_app(bad)
