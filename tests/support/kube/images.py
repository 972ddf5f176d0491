"""The images of a test cluster: the project's own, and the few that Kubernetes wants.

No registry is asked. Where no Docker engine answers, one is started for this, in a network
namespace of its own and without rules of a firewall, and ended afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.deploykit import ROOT
from support.kube.run import Failed, run

ENGINE_S = 60
BUILD_S = 1800
OURS = ("coordinator", "worker", "flowctl", "nats")
BASE = "headrace/base:bookworm"
# What Kubernetes itself runs: the process that holds a pod's namespaces, and the names' server.
_FILES = {
    "pause": f'FROM {BASE}\nENTRYPOINT ["sleep", "infinity"]\n',
    "coredns": f'FROM {BASE}\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]\n',
}


def build(tools: Path, archive: Path, tag: str) -> None:
    """Build all images from the source at hand, as `headrace/NAME:TAG`, into *archive* (tar)."""
    with _engine(archive.parent / "docker") as env:
        run(
            ROOT / "deploy" / "images" / "build.sh",
            "--local",
            env={"PYTHON": "python3.11", **env, "TAG": tag},
            timeout_s=BUILD_S,
        )
        with tempfile.TemporaryDirectory(prefix="headrace-kube-") as context:
            shutil.copy2(tools / "coredns", context)
            for name, text in _FILES.items():
                file = Path(context, f"{name}.Dockerfile")
                file.write_text(text)
                image = f"headrace/{name}:test"
                run("docker", "build", "-q", "-f", file, "-t", image, context, env=env)
        names = [f"headrace/{name}:{tag}" for name in OURS]
        names += [f"headrace/{name}:test" for name in _FILES]
        run("docker", "save", "-o", archive, *names, env=env, timeout_s=300)


@contextlib.contextmanager
def _engine(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of programs that ask a Docker engine."""
    env = dict(os.environ)
    with contextlib.suppress(Failed):
        run("docker", "info")
        yield env
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headrace-docker-") as scratch:
        socket = f"unix://{scratch}/docker.sock"
        options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"]
        options += [f"--host={socket}", f"--data-root={folder}", f"--exec-root={scratch}/run"]
        options += [f"--pidfile={scratch}/docker.pid"]
        with (folder.parent / "docker.log").open("wb") as log:
            engine = subprocess.Popen(
                ["unshare", "--net", "--mount", "dockerd", *options], stdout=log, stderr=log
            )
        try:
            env["DOCKER_HOST"] = socket
            end = time.monotonic() + ENGINE_S
            while True:
                try:
                    run("docker", "info", env=env)
                    break
                except Failed as error:
                    if time.monotonic() > end or engine.poll() is not None:
                        raise Failed(f"no Docker engine can be started: {error}") from error
                    time.sleep(0.5)
            yield env
        finally:
            engine.terminate()
            engine.wait(30)
