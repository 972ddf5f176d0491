"""Which cluster a program reaches that names none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.client import DevServer, find_target, write_dev
from headrace.errors import NotFound, Unreachable
from headrace.sdk import Client

CONTEXTS = """
current = "work"
[contexts.work]
server = "nats://work:4222"
namespace = "team"
creds_file = "/work.creds"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("FLOWCTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "config" / "flowctl").mkdir(parents=True)
    return tmp_path


def test_the_environment_the_context_the_last_dev(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_target().server == "nats://127.0.0.1:4222"
    write_dev(DevServer(server="nats://127.0.0.1:4999", pid=os.getpid(), started_ms=1))
    assert find_target().server == "nats://127.0.0.1:4999"
    (home / "config" / "flowctl" / "config.toml").write_text(CONTEXTS)
    target = find_target()
    assert (target.server, target.namespace) == ("nats://work:4222", "team")
    assert target.access == {"creds_file": "/work.creds"}
    monkeypatch.setenv("FLOWCTL_SERVER", "nats://env:4222")
    target = find_target()
    assert (target.server, target.namespace, target.access) == ("nats://env:4222", "team", {})
    assert find_target(context="work").server == "nats://work:4222"
    assert find_target(server="nats://said:4222", namespace="mine").namespace == "mine"
    with pytest.raises(NotFound, match="no context 'home'"):
        find_target(context="home")


async def test_who_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCTL_SERVER", "nats://127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"at nats://127.0.0.1:1 \(FLOWCTL_SERVER\)"):
        await Client.connect(timeout=0.5)
