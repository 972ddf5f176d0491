"""The Compose files brought up by a Docker engine: a workflow goes through all of it.

Runs where an engine answers and the images are there (deploy/images/build.sh). Names of containers
and volumes are this test's own, and nothing of it stays.
"""

import json
import os
import shutil
import subprocess

import pytest

from headrace.bus import free_port
from support.deploykit import DEPLOY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TAG = os.environ.get("HEADRACE_TAG", "dev")
PREFIX = os.environ.get("HEADRACE_PREFIX", "headrace/")
SMALL = ("nats", "coordinator", "worker")
WHOLE = (
    *("nats-1", "nats-2", "nats-3", "coordinator-0", "coordinator-1", "coordinator-2"),
    *("worker-linux", "worker-batch"),
)
"""All but Prometheus and Grafana, whose images may not be there."""


def ask(*command, env=None, timeout_s=60):
    ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=env)
    return ran.returncode, ran.stdout, ran.stderr


class Project:
    """One Compose project."""

    def __init__(self, compose, file):
        self._words = [*compose, "-f", str(DEPLOY / "compose" / file), "--profile", "tools"]
        self._words += ["-p", f"headrace-test-{os.getpid()}"]
        nats = f"{PREFIX}nats:{TAG}"
        self._env = {**os.environ, "HEADRACE_TAG": TAG, "NATS_PORT": str(free_port())}
        self._env |= {"HEADRACE_PREFIX": PREFIX}
        if ask("docker", "image", "inspect", nats)[0] == 0:
            self._env["NATS_IMAGE"] = nats

    def __call__(self, *words, timeout_s=180):
        code, out, err = ask(*self._words, *words, env=self._env, timeout_s=timeout_s)
        assert code == 0, f"{words}: {out}{err}"
        return out

    def flowctl(self, *words):
        return self("run", "--rm", "-T", "flowctl", *words)


@pytest.fixture
def project(request):
    if not shutil.which("docker") or ask("docker", "info", "-f", "{{.ServerVersion}}")[0]:
        pytest.skip("no Docker engine answers")
    compose = None
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            code, version, _ = ask(*words, "version", "--short")
            if code == 0 and not version.startswith("1."):
                compose = words
                break
    if compose is None:
        pytest.skip("Docker has no Compose 2")
    if ask("docker", "image", "inspect", f"{PREFIX}flowctl:{TAG}")[0]:
        pytest.skip(f"the image {PREFIX}flowctl:{TAG} is not there: deploy/images/build.sh")
    found = Project(compose, request.param)
    try:
        yield found
    finally:
        found("down", "--volumes", "--timeout", "5")


@pytest.mark.parametrize(
    ("project", "services"),
    [("compose.single.yaml", SMALL), ("compose.yaml", WHOLE)],
    indirect=["project"],
    ids=["single", "cluster"],
)
def test_a_workflow_goes_through(project, services):
    worker = services[6] if services is WHOLE else "worker"
    project("up", "-d", "--wait", "--wait-timeout", "150", *services)
    run = json.loads(project.flowctl("submit", "/examples/hello.yaml", "--wait", "-o", "json"))
    assert run["state"] == "COMPLETED"
    project("up", "-d", "--no-recreate", "--wait", "--scale", f"{worker}=3", worker)
    status = project.flowctl("cluster", "status")
    assert "synced to disk" in status
    # Stopped and started again, it knows what was: all of it is in the volumes.
    project("down", "--timeout", "5")
    project("up", "-d", "--wait", "--wait-timeout", "150", *services)
    listed = json.loads(project.flowctl("list", "-o", "json"))
    assert run["id"] in json.dumps(listed)
