"""Configurations of NATS servers, judged by a real nats-server (`-t`: read it, and end)."""

import importlib.util
import os
import shutil
import subprocess

import pytest

from headrace.bus import find_server
from support.deploykit import DEPLOY, chart, only

ACCOUNTS = """\
accounts { HEADRACE { jetstream: enabled, users: [ { user: a, password: b } ] } }
"""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """Return a folder as the containers have it at /etc/nats."""
    folder = tmp_path_factory.mktemp("nats")
    spec = importlib.util.spec_from_file_location(
        "compose_prepare", DEPLOY / "compose" / "prepare.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH")
    for name in ("secrets", "tls", "auth"):
        (folder / name).mkdir()
        (folder / name / "accounts.conf").write_text(ACCOUNTS)
        (folder / name / "auth.conf").write_text(ACCOUNTS)
    module.certificates(folder / "secrets", ["nats"])
    for name, file in (("server.crt", "tls.crt"), ("server.key", "tls.key"), ("ca.crt", "ca.crt")):
        shutil.copyfile(folder / "secrets" / name, folder / "tls" / file)
    return folder


def judged(text, folder):
    """Return what nats-server says of a configuration; empty: nothing is wrong."""
    path = folder / "nats.conf"
    path.write_text(text.replace("/etc/nats/", f"{folder}/").replace('"/data"', f'"{folder}/js"'))
    names = ("COORDINATOR", "OPERATOR", "WORKER", "CLIENT", "SYSTEM")
    env = {f"{name}_PASSWORD": f"secret{name}" for name in names}
    env |= {"POD_NAME": "hr-nats-0", "SERVER_NAME": "nats-1", "PATH": os.environ["PATH"]}
    ran = subprocess.run(
        [find_server(), "-t", "-c", str(path)], capture_output=True, text=True, env=env, timeout=30
    )
    return "" if ran.returncode == 0 else ran.stderr + ran.stdout


@pytest.mark.parametrize("name", ["single", "cluster"])
def test_compose(secrets, name):
    text = (DEPLOY / "compose" / "nats" / f"{name}.conf").read_text()
    assert judged(text, secrets) == ""


@pytest.mark.parametrize("values", [(), ("minimal",), ("full",)], ids="-".join)
def test_chart(secrets, values):
    text = only(chart(*values), "ConfigMap", "hr-nats")["data"]["nats.conf"]
    assert judged(text, secrets) == ""


def test_a_fault_is_seen(secrets):
    text = (DEPLOY / "compose" / "nats" / "cluster.conf").read_text()
    assert "sinc" in judged(text.replace("sync_interval", "sinc_interval"), secrets)


def test_addresses_are_not_told_to_clients():
    """They would be those of containers: such an address passes away, and no certificate has it."""
    for config in ("compose/nats/cluster.conf", "k8s/base/nats/nats.yaml"):
        assert "no_advertise: true" in (DEPLOY / config).read_text(), config
