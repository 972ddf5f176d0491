"""`flowctl` in this process, against a cluster that only remembers."""

import logging
import os

import pytest

from headrace.client import Client
from headrace.flowctl._app import run
from support.fake_server import FakeCluster, FakeTransport
from support.logs import logging_as_it_was


@pytest.fixture(autouse=True)
def logging_of_commands_ends_with_them():
    """A command that sets up logging for its process does it for that of the tests here."""
    with logging_as_it_was():
        yield


WORKFLOW = """\
name: hello
on:
  workflow_dispatch:
    inputs:
      count: {type: number, default: 1}
      note: {type: string}
jobs:
  a:
    runs-on: linux
    steps:
      - run: echo a
  b:
    runs-on: linux
    needs: a
    steps:
      - run: echo b
"""


class Ran:
    """One finished call."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("FLOWCTL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    # `flowctl` as a process silences our loggers; here other tests come after it.
    monkeypatch.setattr(logging.getLogger("headrace"), "propagate", True)


@pytest.fixture
def workflow(tmp_path):
    path = tmp_path / "hello.yaml"
    path.write_text(WORKFLOW)
    return str(path)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that every `Client.connect` of the test reaches."""
    cluster = FakeCluster()
    cluster.connected = []

    async def connect(servers, *, namespace="default", timeout_s=5.0, access=None):
        cluster.connected.append((servers, namespace))
        client = Client(FakeTransport(cluster), namespace=namespace, timeout_s=timeout_s)
        await client.learn()
        return client

    monkeypatch.setattr(Client, "connect", connect)
    return cluster


@pytest.fixture
def flowctl(capsys):
    def call(*args):
        code = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(code, captured.out, captured.err)

    return call
