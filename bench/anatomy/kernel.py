"""What the kernel and the broker know of the processes: CPU time by thread, wake-ups, messages."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Use(NamedTuple):
    """Of one process so far."""

    main_s: float
    """CPU seconds of its first thread."""
    others_s: float
    """Of all others."""
    wakes: int
    """How often one of its threads went to sleep by itself."""

    def since(self, before: Use) -> Use:
        """Return the difference."""
        return Use(
            self.main_s - before.main_s, self.others_s - before.others_s, self.wakes - before.wakes
        )


def use_of(pid: int) -> Use:
    """Return what process *pid* has used; zeros when it is gone."""
    main_s = others_s = 0.0
    wakes = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            status = (task / "status").read_text()
        except OSError:
            continue
        seconds = (int(fields[11]) + int(fields[12])) * _TICK_S
        if task.name == str(pid):
            main_s += seconds
        else:
            others_s += seconds
        wakes += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return Use(main_s, others_s, wakes)


def proportional_mb(pid: int) -> float:
    """Return a process's proportional set size (PSS) in MB; 0 when it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(text.split("\nPss:")[1].split()[0]) * 1024 / 1e6


def broker_messages(monitor_url: str) -> dict[str, int]:
    """Return how many messages and bytes the broker has taken and given."""
    with urllib.request.urlopen(f"{monitor_url}/varz", timeout=5) as answer:
        figures = json.load(answer)
    return {name: figures[name] for name in ("in_msgs", "out_msgs", "in_bytes", "out_bytes")}
