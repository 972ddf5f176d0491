"""Namespaces for a cluster: network, mounts and processes of its own, which end with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NEEDS = (
    "unshare",
    "ip",
    "iptables",
    "mount",
    "containerd",
    "runc",
    "ctr",
    "openssl",
    "kubectl",
    "prometheus",
)


def missing() -> list[str]:
    """Return what this machine lacks; empty: a cluster can be started."""
    found = [name for name in NEEDS if shutil.which(name) is None]
    if os.geteuid() != 0:
        found.append("root")
    return found


def command(words: Sequence[str]) -> list[str]:
    """Return a command that runs this interpreter with *words* within new namespaces.

    Who kills it (SIGKILL, it hears nothing else) ends all that is in them. The shell is there to
    bury processes whose parents have gone, as process 1 has to.
    """
    spaces = ("--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
    return ["unshare", *spaces, "sh", "-c", '"$@"; exit $?', "sh", sys.executable, *words]


def remove_groups(name: str, within_s: float = 20) -> None:
    """Remove the control groups below *name*, whose processes have ended or are about to."""
    end = time.monotonic() + within_s
    tops = [path / name for path in Path("/sys/fs/cgroup").iterdir() if (path / name).is_dir()]
    while tops and time.monotonic() < end:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        tops = [top for top in tops if top.is_dir()]
        time.sleep(0.2)
