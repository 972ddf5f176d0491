"""`flowctl lock` against a shard that decides for real."""

import json
import sys

import pytest

from headrace.events import CacheStored
from headrace.messages import AcquireLock, RenewLock


def test_a_lock_is_acquired_shown_renewed_and_released(flowctl, cluster):
    held = json.loads(flowctl("lock", "acquire", "db", "--owner", "me", "-o", "json").out)
    assert (held["owner"], held["held"]) == ("me", True)
    assert held["token"] > 0
    assert flowctl("lock", "get", "db").out.startswith("db  held by me for ")
    listed = flowctl("lock", "list").out.splitlines()
    assert listed[1].split()[:2] == ["db", "me"]
    taken = flowctl("lock", "acquire", "db", "--owner", "you")
    assert taken.code == 3
    assert "held by me" in taken.err
    renewed = flowctl("lock", "renew", "db", "--token", held["token"], "--ttl", "1h", "-o", "json")
    assert json.loads(renewed.out)["expires"] > held["expires"]
    assert "released" in flowctl("lock", "release", "db", "--owner", "me").err
    assert flowctl("lock", "get", "db").out == "db  free\n"
    assert "no locks" in flowctl("lock", "list").err


def test_it_is_waited_for(flowctl, cluster):
    flowctl("lock", "acquire", "db", "--ttl", "300ms", "--owner", "me")
    assert flowctl("lock", "acquire", "db", "--wait", "10s", "--owner", "you").code == 0
    assert "you" in flowctl("lock", "get", "db").out
    late = flowctl("lock", "acquire", "db", "--wait", "100ms")
    assert late.code == 3
    assert "not free in time" in late.err


def test_lost_answers_acquire_it_once(flowctl, cluster):
    cluster.faults.extend(["", "lost-reply", "busy", "lost-request"])
    held = json.loads(flowctl("lock", "acquire", "db", "-o", "json").out)
    asked = cluster.sent(AcquireLock)
    assert len({request.request_id for request in asked}) == 1
    assert held["held"]


@pytest.mark.parametrize("code", [0, 7])
def test_a_command_under_a_lock(flowctl, cluster, code, tmp_path):
    script = (
        "import os, sys; env = os.environ;"
        f"out = open({str(tmp_path / 'said')!r}, 'w');"
        "print(env['HEADRACE_LOCK'], int(env['HEADRACE_LOCK_TOKEN']) > 0, file=out);"
        f"sys.exit({code})"
    )
    ran = flowctl("lock", "run", "db", "--ttl", "5s", "--", sys.executable, "-c", script)
    assert ran.code == code
    assert (tmp_path / "said").read_text() == "db True\n"
    assert flowctl("lock", "get", "db").out == "db  free\n"


def test_a_command_that_takes_longer_has_its_lock_renewed(flowctl, cluster, tmp_path):
    script = f"import time\nwhile not __import__('os').path.exists({str(tmp_path / 'go')!r}):\n"
    script += " time.sleep(.01)"
    answer = cluster.answer

    def watching(subject, data):
        if len(cluster.sent(RenewLock)) >= 2:
            (tmp_path / "go").touch()
        return answer(subject, data)

    cluster.answer = watching
    ran = flowctl("lock", "run", "db", "--ttl", "400ms", "--", sys.executable, "-c", script)
    assert ran.code == 0
    assert len(cluster.sent(RenewLock)) >= 2


def test_a_command_ends_with_its_lock(flowctl, cluster):
    script = "import time; time.sleep(60)"
    real = cluster._lock

    def taken(request):
        return ("conflict", "it is not yours") if isinstance(request, RenewLock) else real(request)

    cluster._lock = taken
    ran = flowctl("lock", "run", "db", "--ttl", "300ms", "--", sys.executable, "-c", script)
    assert ran.code == 3
    assert "was lost while the command ran" in ran.err


def test_what_cannot_be_run(flowctl, cluster):
    ran = flowctl("lock", "run", "db", "--", "/no/such/command")
    assert ran.code == 3
    assert "cannot run /no/such/command" in ran.err
    assert flowctl("lock", "get", "db").out == "db  free\n"
    assert flowctl("lock", "run", "db").code == 3
    assert flowctl("lock", "acquire", "db", "--ttl", "soon").code == 3
    assert flowctl("lock", "release", "db").code == 3


def test_cached_results_are_listed_and_forgotten(flowctl, cluster):
    result = CacheStored("cache:default/d1/deps", b"\x80", "default/r1", "build/deps", 1, 0)
    cluster.system.emit_shard(result)
    listed = json.loads(flowctl("cache", "list", "-o", "json").out)
    assert [(found["key"], found["run"], found["until"]) for found in listed] == [
        ("deps", "r1", None)
    ]
    assert "build/deps" in flowctl("cache", "list", "deps").out
    assert flowctl("cache", "clear").code == 3
    assert flowctl("cache", "clear", "deps", "--all").code == 3
    assert "1 results forgotten" in flowctl("cache", "clear", "deps").err
    assert "nothing is kept" in flowctl("cache", "list").err
