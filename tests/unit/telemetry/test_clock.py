import time

from headrace.telemetry import Clock, SystemClock


def test_system_clock_counts_milliseconds():
    clock: Clock = SystemClock()
    before = int(time.time() * 1000)
    assert before - 1 <= clock.now_ms() <= before + 60_000
    assert clock.monotonic() <= clock.monotonic()
