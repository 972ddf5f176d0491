import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from headrace.telemetry import (
    OTHER,
    BusMetrics,
    CoordinatorMetrics,
    Counter,
    Gauge,
    Histogram,
    Label,
    ProcessMetrics,
    WorkerMetrics,
    new_registry,
    render,
)


@pytest.fixture
def registry():
    return CollectorRegistry()


def samples(registry, name):
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(render(registry).decode())
        for sample in family.samples
        if sample.name == name
    }


def test_every_family_keeps_the_naming_rules(registry):
    for part in (CoordinatorMetrics, WorkerMetrics, BusMetrics, ProcessMetrics):
        part(registry)
    families = list(registry.collect())
    assert len(families) >= 100
    for family in families:
        assert re.fullmatch(r"headrace_[a-z][a-z_]*[a-z]", family.name), family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_minutes", "_kb")), family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_bytes", "_events", "_items", "_tasks")), (
                family.name
            )
        if family.type != "counter":
            assert not family.name.endswith("_total")


def test_closed_series_exist_from_the_start(registry):
    CoordinatorMetrics(registry)
    found = samples(registry, "headrace_runs_ended_total")
    assert found == {
        (("state", "cancelled"),): 0,
        (("state", "completed"),): 0,
        (("state", "failed"),): 0,
    }


def test_an_unknown_value_of_a_closed_label_is_other(registry):
    counter = Counter(registry, "x_total", "X.", Label("kind", ("a", "b")))
    for value in ("a", "zzz", "yyy"):
        counter.inc(value)
    assert samples(registry, "headrace_x_total") == {
        (("kind", "a"),): 1,
        (("kind", "b"),): 0,
        (("kind", OTHER),): 2,
    }


def test_a_limited_label_never_grows_past_its_limit(registry):
    gauge = Gauge(registry, "x", "X.", Label("lane", limit=3))
    for number in range(100):
        gauge.inc(f"lane{number}")
    found = samples(registry, "headrace_x")
    assert len(found) == 4
    assert found[("lane", OTHER),] == 97


def test_forgetting_a_series_makes_room(registry):
    gauge = Gauge(registry, "x", "X.", Label("lane", limit=1), Label("kind", ("a",)))
    gauge.set(1, "one", "a")
    gauge.forget("one", "a")
    gauge.forget("never", "a")
    gauge.set(2, "two", "a")
    assert samples(registry, "headrace_x") == {(("kind", "a"), ("lane", "two")): 2}


def test_followed_gauges_are_read_at_scrape(registry):
    gauge = Gauge(registry, "x", "X.")
    held = [1]
    gauge.follow(lambda: len(held))
    held.append(2)
    assert samples(registry, "headrace_x") == {(): 2}
    assert gauge.value() == 2


def test_histograms_and_counters_tell_their_values(registry):
    histogram = Histogram(registry, "x_seconds", "X.", buckets=(1.0, 2.0))
    counter = Counter(registry, "y_total", "Y.")
    histogram.observe(1.5)
    counter.inc(by=3)
    assert (histogram.count(), counter.value()) == (1, 3)
    assert samples(registry, "headrace_x_seconds_bucket")[("le", "2.0"),] == 1


def test_many_observations_count_as_if_made_one_by_one(registry):
    buckets = (0.01, 1.0, 2.0)
    singly = Histogram(registry, "x_seconds", "X.", buckets=buckets)
    at_once = Histogram(registry, "y_seconds", "Y.", buckets=buckets)
    values = {0.0: 5, 0.01: 2, 0.5: 3, 2.0: 1, 7.0: 4}
    for value, times in values.items():
        for _ in range(times):
            singly.observe(value)
    at_once.observe_many(values)
    for suffix in ("bucket", "count", "sum"):
        made = samples(registry, f"headrace_y_seconds_{suffix}")
        assert made == samples(registry, f"headrace_x_seconds_{suffix}")


def test_created_series_are_left_out_and_process_figures_are_in():
    registry = new_registry(release="1.2", role="worker")
    WorkerMetrics(registry)
    text = render(registry).decode()
    assert "_created" not in text
    assert 'headrace_build_info{release="1.2",role="worker"} 1.0' in text
    assert "process_cpu_seconds_total" in text


def test_two_registries_share_nothing():
    first, second = WorkerMetrics(new_registry()), WorkerMetrics(new_registry())
    first.tasks_received.inc()
    assert second.tasks_received.value() == 0


def test_counting_stays_cheap_by_reusing_children(registry):
    counter = Counter(registry, "x_total", "X.", Label("lane", limit=2))
    assert counter._child(("a",)) is counter._child(("a",))


def test_a_label_without_a_bound_cannot_be_declared():
    with pytest.raises(AssertionError):
        Label("user")
