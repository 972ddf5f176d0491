"""The Celery application: worker and client share it, as its documentation has it."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from harness import note_step

URL = f"redis://127.0.0.1:{os.environ.get('BENCH_REDIS_PORT', '0')}"
SETTINGS: dict[str, Any] = {
    # At least once: a task is acknowledged when it has been done, and given again when its worker
    # was lost. Redis has no acknowledgements of its own; the time-out below stands for them: low
    # in W5 alone, with a sweep each second, as is advised for a low one.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_transport_options": {
        "visibility_timeout": int(os.environ.get("BENCH_VISIBILITY_S", "3600")),
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    # Short tasks: fetch many at once.
    "worker_prefetch_multiplier": 64,
    "worker_concurrency": 2,
    "broker_pool_limit": 50,
    "redis_max_connections": 200,
    "broker_connection_retry_on_startup": True,
    "result_expires": 600,
    "worker_hijack_root_logger": False,
}

app = Celery("bench", broker=f"{URL}/0", backend=f"{URL}/1")
app.conf.update(SETTINGS)


@app.task
def step() -> None:
    """Do nothing."""


@app.task
def join(_results: list[None]) -> int:
    """Join a fan-out."""
    return len(_results)


@app.task
def noted(run: str, index: int) -> None:
    """Note that the step was begun."""
    note_step(run, index)
