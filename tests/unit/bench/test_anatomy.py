"""Where the time goes: stages of stacks, and the page that says so."""

from __future__ import annotations

import os

from bench.anatomy import kernel, page, stages


def test_the_innermost_frame_that_tells_names_the_stage():
    tick = "Owner._tick (coordinator/runtime/owner.py:310)"
    lines = [
        f"run (asyncio/runners.py:118);{tick};record (coordinator/core/results.py:60) 6",
        f"run (asyncio/runners.py:118);{tick};loads (json/decoder.py:3) 1",
        "run (asyncio/runners.py:118);WireClient._write (bus/_client.py:130);write (x.py:1) 2",
        "run (asyncio/runners.py:118) 1",
        "Thread._bootstrap (threading.py:1);work (aiosqlite/core.py:9) 90",
    ]
    assert stages.shares("\n".join(lines), stages.COORDINATOR) == {
        "decide": 0.6,
        "bus: write": 0.2,
        "tick": 0.1,
        "event loop": 0.1,
    }


def test_what_a_process_uses_is_read_by_thread():
    before = kernel.use_of(os.getpid())
    assert before.main_s > 0
    assert before.wakes > 0
    assert all(figure >= 0 for figure in kernel.use_of(os.getpid()).since(before))
    assert kernel.proportional_mb(os.getpid()) > 1


def _document() -> dict:
    processes = ("nats-0", "coordinator-0", "worker-0", "client")
    workload = {
        "steps_per_s": 20_000.0,
        "cpu_us_per_step": dict.fromkeys(processes, 10.0),
        "other_threads_us_per_step": dict.fromkeys(processes, 2.0),
        "wakes_per_step": dict.fromkeys(processes, 0.1),
        "per_step": dict.fromkeys(("in_msgs", "out_msgs", "in_bytes", "out_bytes"), 0.1),
        "steps_per_append": 90.0,
        "tasks_per_message": 40.0,
        "shares": {"coordinator-0": {"decide": 0.25}, "worker-0": {"run": 0.5}},
    }
    load_figures = {"cores": {"all": 1.2}, "steps_per_s": 20_000, "batches_behind_at_end": 1}
    times = dict.fromkeys(("probe_p50_ms", "probe_p99_ms", "run_p50_ms", "run_p99_ms"), 3.0)
    idle = {"cores": dict.fromkeys(processes, 0.01), "pss_mb": dict.fromkeys(processes[:3], 30.0)}
    facts = {"cpu": "X", "cores": 2, "python": "3", "nats_server": "2", "time": "now"}
    results = {"W2": workload, "W4": workload, "open": [load_figures | times], "idle": idle}
    return {"machine": facts, "results": results}


def test_the_tables():
    lines = page.rows(_document())
    assert "| coordinator: decide | 2.00 | 2.00 |" in lines
    assert "| **all** | **40.0** | **40.0** |" in lines
    assert "| all |  | 90 MB |" in lines
