"""Who used the machine while something was measured: others, or we ourselves."""

import os

import pytest
from bench.facts import Others, busy_s, family_s, others_text, process_s, was_busy

TICKS = os.sysconf("SC_CLK_TCK")


def test_waiting_for_a_disk_is_no_work_and_what_a_hypervisor_takes_is():
    assert busy_s(f"cpu  {TICKS} {TICKS} {TICKS} 999 999 {TICKS} {TICKS} {TICKS} 5 5\n") == 6.0


def test_a_process_is_read_whatever_its_name():
    words = ["S", "7", *"0" * 9, str(TICKS), str(TICKS), str(TICKS), "0", "20"]
    assert process_s(f"42 (a) b (c) {' '.join(words)}") == (7, 3.0)


def test_only_descendants_are_of_the_family():
    stats = {1: (0, 100.0), 10: (1, 1.0), 11: (10, 2.0), 12: (11, 4.0), 20: (1, 50.0)}
    assert family_s(stats, 10) == 7.0


def test_our_own_work_is_not_that_of_others():
    others = Others()
    others._began_s -= 10.0
    others._began_cpu_s -= 5.0
    assert others.cores() > 0.4


@pytest.mark.parametrize(("cores", "busy"), [(0.1, False), (0.3, True)])
def test_a_machine_is_busy_with_others_from_a_tenth_of_its_cores_on(cores, busy):
    facts = {"cores": 2, "others_cores": cores}
    assert was_busy(facts) is busy
    assert f"{cores:.2f} of its cores" in others_text(facts)


def test_what_nobody_measured_is_not_told_as_idle():
    assert not was_busy({"cores": 2})
    assert "not measured" in others_text({"cores": 2})
