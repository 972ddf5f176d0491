"""A process of `flowctl dev`: the same role command, but it does not outlive its parent.

``python -m headrace.local.child worker …`` is ``flowctl worker …`` with a watch on the parent.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

CHECK_S = 0.5
GRACE_S = 10.0


def _watch(parent: int) -> None:
    """End this process once *parent* is gone, kindly at first."""
    while os.getppid() == parent:
        time.sleep(CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def main() -> None:
    """Run the role command in the arguments."""
    from headrace.flowctl import main as flowctl

    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()
    sys.argv[0] = "flowctl"
    flowctl()


if __name__ == "__main__":
    main()
