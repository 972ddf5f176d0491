"""The report and the targets of bench/peers, from canned results; no system is started."""

import copy
import json
import tomllib
from pathlib import Path

import pytest
from bench.page import spliced
from bench.peers import report, targets
from bench.peers.loss import read_steps

ROOT = Path(__file__).parents[3]
CANNED = json.loads(Path(__file__).with_name("peers.json").read_text())


@pytest.fixture
def document():
    return copy.deepcopy(CANNED)


def verdict(document, key):
    (found,) = (one for one in targets.verdicts(document) if one.key == key)
    return found


def test_ratios_are_judged_by_medians_of_rounds():
    assert {one.key: one.met for one in targets.verdicts(CANNED)} == {
        "W2-restate": False,  # 52,000 against 2,600: 20
        "W2-celery": True,  # against 500: 104
        "W2-dbos": None,  # not installed
        "W1-celery": False,  # 2.1 ms against 4: 1.9
        "W1-durable": True,  # against 12.25: 5.8; Celery is no durable one
        "W3": True,  # 42 ms against 900: 21
        "W4": False,  # 25,000 against 900: 27.8
        "W5-pause": False,  # 1.6 s against 1.4 s
        "W5-twice": False,  # 4 against 0
        "W5-lost": True,
        "memory": True,
        "start": True,
        "idle-cpu": False,  # 2.4 %
    }


def test_a_ratio_just_met_is_met(document):
    document["systems"]["restate"]["rounds"] = document["systems"]["restate"]["rounds"][:1]
    document["systems"]["restate"]["rounds"][0]["W2"]["steps_per_s"] = 52_000 / 25
    assert verdict(document, "W2-restate").met is True
    document["systems"]["restate"]["rounds"][0]["W2"]["steps_per_s"] = 52_000 / 24.9
    assert verdict(document, "W2-restate").met is False


def test_a_miss_has_a_reason_and_so_has_what_was_not_measured():
    assert all(one.reason for one in targets.verdicts(CANNED) if one.met is not True)
    assert "no such version" in verdict(CANNED, "W2-dbos").reason


def test_reasons_are_of_targets():
    keys = {one.key for one in targets.verdicts(CANNED)}
    assert set(tomllib.loads(targets.REASONS.read_text())) <= keys


def test_who_loses_runs_is_no_measure_for_steps_run_twice(document):
    document["systems"]["celery"]["rounds"][0]["W5"]["lost"] = 5
    # Left is Restate with 80.
    assert verdict(document, "W5-twice").met is True


def test_the_report_has_every_target_figure_and_absence():
    text = report.render(CANNED)
    for one in targets.verdicts(CANNED):
        assert one.target in text
    assert "**missed**" in text
    assert (
        "| W2, steps/s | 52,000 (50,000 to 54,000) | 2,600 (2,600 to 2,600) | – | 500 | – |" in text
    )
    assert "was not measured: pip install dbos: no such version" in text
    assert "failed in round 1, start: server is not ready after 60 s" in text
    assert "Not measured, open_loop: no answer within 90 s" in text
    assert "Celery + Redis 20 runs in W2" in text
    assert "Celery + Redis 500 runs in W4" in text


def test_a_busy_machine_is_told(document):
    assert "busy" not in report.render(document)
    document["machine"]["others_cores"] = 0.3
    assert "**The machine was busy" in report.render(document)


def test_open_loops_are_shown_with_their_picture(document):
    assert report.pictures(document) == ["systems"]
    document["ours"]["open_loop"] = [
        {
            "offered": 5_000,
            "done": 4_990.0,
            "turned_away_runs": 7,
            "backlog_runs": 3,
            "cores": 0.6,
            "cpu_us_per_step": 120.0,
            "probe_p50_ms": 3.1,
            "probe_p99_ms": 9.4,
            "probes": 150,
        }
    ]
    assert "| 5,000 | 4,990 | 7 | 3 | 0.60 | 3.1 | 9.4 | 120 |" in report.render(document)
    assert "![open-loop](benchmarks/open-loop.png)" in report.render(document)


def test_the_page_is_what_the_results_say():
    # Mend with: python -m bench.peers --report
    page = report.PAGE.read_text()
    if report.RESULTS.exists():
        document = json.loads(report.RESULTS.read_text())
        assert spliced(page, "peers", report.render(document)) == page
        for name in report.pictures(document):
            assert (report.PICTURES / f"{name}.png").stat().st_size < 500_000
    else:
        assert spliced(page, "peers", "") != page


def test_the_step_log_tells_pause_repeats_and_losses(tmp_path):
    second = 1_000_000_000
    killed = 100 * second
    lines = [f"{98 * second} done {n}" for n in range(10)]
    lines += [f"{99 * second} cut {n}" for n in range(4)]
    lines += [f"{99 * second} gone 0"]
    lines += [f"{102 * second + n} cut {n}" for n in range(3, 10)]
    log = tmp_path / "steps.log"
    log.write_text("\n".join(lines) + "\n")
    told = read_steps(log, killed, ["done", "cut", "gone", "never"])
    assert told == {
        "runs": 4,
        "steps_begun": 22,
        "pause_s": pytest.approx(2.0),
        "interrupted": 2,
        "interrupted_done_s": None,  # one of the two never came to its end
        "twice": 1,
        "lost": 2,
    }
    told = read_steps(log, killed, ["done", "cut"])
    assert told["lost"] == 1
    log.write_text("\n".join(line for line in lines if "gone" not in line) + "\n")
    assert read_steps(log, killed, ["done"])["interrupted_done_s"] == pytest.approx(2.0)
