"""The command: a cluster, the chart on it, and what becomes of both."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from support.deploykit import CHART
from support.kube import addons, images, sandbox, steps, tools
from support.kube.node import CGROUP, Node
from support.kube.release import Release
from support.kube.run import Failed

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "headrace-kubernetes"
TIME_S = 3600


def main() -> int:
    """Run the command; return 0: all steps held, 1: one did not, 2: what it needs is missing."""
    parser = argparse.ArgumentParser(description="Installs the chart on a Kubernetes of its own.")
    parser.add_argument("--tools", type=Path, default=CACHE, help=f"built programs ({CACHE})")
    parser.add_argument("--images", type=Path, help="a tar of images made before (--tools)")
    parser.add_argument("--only", action="append", default=[], help="steps with this in their name")
    parser.add_argument("--hold", action="store_true", help="leave the cluster up until Ctrl-C")
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.state is not None:
        return _inside(given)
    lacking = sandbox.missing()
    if lacking:
        print(f"skipped: this machine has no {', '.join(lacking)}", file=sys.stderr)
        return 2
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    archive = given.images or given.tools / "images.tar"
    try:
        tools.build(given.tools)
        if given.images is None:
            images.build(given.tools, archive, version)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="headrace-kube-") as state:
        words = [*sys.argv, f"--state={state}", f"--tools={given.tools}", f"--images={archive}"]
        cluster = subprocess.Popen(sandbox.command(words), start_new_session=True)
        # Ctrl-C and SIGTERM go the same way as the end.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return cluster.wait(TIME_S)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            return 1
        finally:
            # It dies with all that is in its namespaces; only this signal is passed on.
            cluster.kill()
            cluster.wait()
            sandbox.remove_groups(CGROUP)


def _inside(given: argparse.Namespace) -> int:
    node = Node(given.state, given.tools)
    bad = 0
    try:
        began = time.monotonic()
        node.start()
        node.containers("images", "import", given.images, timeout_s=300)
        node.apply(addons.volumes(node.state / "volumes", 3) + addons.names())
        print(f"ok   a node is ready ({time.monotonic() - began:.0f} s)", flush=True)
        release = Release(node)
        for step in steps.STEPS:
            if given.only and not any(text in step.__name__ for text in given.only):
                continue
            began = time.monotonic()
            word = "ok  "
            try:
                said = step(release)
            except Failed as error:
                bad, word, said = bad + 1, "FAIL", str(error)
            took_s = time.monotonic() - began
            print(f"{word} {step.__name__}: {said} ({took_s:.0f} s)", flush=True)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.hold:
        print(f"KUBECONFIG={node.config('admin')}; enter: nsenter -t {os.getpid()} -n", flush=True)
        signal.pause()
    return 1 if bad else 0
