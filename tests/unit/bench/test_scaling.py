"""The page's part about scaling, from figures of one run or of several."""

from __future__ import annotations

from bench.scale import report

MACHINE = {
    "cpu": "X", "cores": 2, "memory_gb": 8.0, "python": "3", "time": "now", "others_cores": 0.1,
}  # fmt: skip
BEATS = {
    "workers": 1_000,
    "registered": 1_000,
    "registered_s": 1.25,
    "cpu_share": 0.05,
    "us_a_heartbeat": 50.0,
    "rss_mb": 4.0,
}


def test_a_busy_machine_is_told():
    document = {"machine": MACHINE, "quick": False, "seconds": 3, "heartbeats": [BEATS]}
    text = report.render(document)
    assert "| 1,000 | 1,000 | 1.2 s | 5.0 % | 50 us | 4 MB |" in text
    assert "busy" not in text
    document["machine"] = MACHINE | {"others_cores": 0.5}
    assert "other processes used 0.50 of its cores meanwhile" in report.render(document)
    assert "**The machine was busy**" in report.render(document)


def test_what_an_earlier_run_found_is_named_as_such():
    earlier = {"machine": MACHINE | {"time": "yesterday"}, "quick": True}
    document = {"machine": MACHINE, "quick": False, "seconds": 3, "heartbeats": [BEATS]}
    document["earlier"] = {"heartbeats": earlier}
    assert "(An earlier run: yesterday, `--quick`.)" in report.render(document)


def test_what_failed_is_named():
    document = {"machine": MACHINE, "quick": False, "seconds": 3, "missed": ["a long history: X"]}
    assert "**Missed:** a long history: X." in report.render(document)


def test_the_longest_piece_stands_beside_the_whole():
    row = dict.fromkeys(("get_ms", "get_steps_ms", "explain_ms", "past_ms", "load_ms"), 1.0)
    row |= {"events": 100_000, "step_us": 20.0, "state_bytes": 5, "history_ms": 11.4}
    document = {"machine": MACHINE, "quick": False, "seconds": 3, "history": [row]}
    # Older figures have no longest piece.
    assert "| 11.4 ms |" in report.render(document)
    row |= {"get_steps_ms": 190.0, "get_steps_hold_ms": 4.3}
    assert "| 190.0 ms, 4.3 ms |" in report.render(document)
