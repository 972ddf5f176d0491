"""Metric families whose label values are bounded by construction.

A label is either closed (its values are listed; all series exist from the start, at zero) or
limited (the first so many values get a series, the rest share `other`). So no input, however
odd, can make the number of series grow without end. Lookups are one dict access.
"""

from __future__ import annotations

import itertools
import time
import types
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Exemplar, Sample

OTHER = "other"
"""Value of a label whose own value has no series of its own."""

PREFIX = "headrace_"


SERIES_MAX = 5_000
"""Of one family: combinations of values beyond have their limited labels set to `OTHER`."""

TRACE_CHARS = 32
"""Of a trace id, in hexadecimal."""


class Label(msgspec.Struct, frozen=True):
    """A label: closed by its values, or limited by their number."""

    name: str
    values: tuple[str, ...] = ()
    limit: int = 0
    """Distinct values that get a series; only without `values`."""

    def __post_init__(self) -> None:
        assert bool(self.values) != bool(self.limit), f"label {self.name} has no bound"


_M = TypeVar("_M", prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)


class _Family(Generic[_M]):
    kind = ""

    def __init__(self, metric: _M, name: str, help: str, labels: Sequence[Label]) -> None:
        self.name, self.help, self.labels = PREFIX + name, help, tuple(labels)
        self._metric: _M = metric
        self._labels = tuple(labels)
        self._seen: list[set[str]] = [set(label.values) for label in labels]
        self._children: dict[tuple[str, ...], _M] = {}
        if not labels:
            self._children[()] = metric
        elif all(label.values for label in labels):
            for values in itertools.product(*(label.values for label in labels)):
                self._children[values] = metric.labels(*values)

    def _child(self, values: tuple[str, ...]) -> _M:
        child = self._children.get(values)
        return child if child is not None else self._admit(values)

    def _admit(self, values: tuple[str, ...]) -> _M:
        """Return the series of values that were not seen together before."""
        assert len(values) == len(self._labels), f"{self._labels} got {values}"
        bounded = tuple(map(self._bounded, self._labels, self._seen, values))
        if len(self._children) >= SERIES_MAX and bounded not in self._children:
            bounded = tuple(
                OTHER if label.limit else value
                for label, value in zip(self._labels, bounded, strict=True)
            )
        child = self._children.get(bounded)
        if child is None:
            child = self._children[bounded] = self._metric.labels(*bounded)
        return child

    @staticmethod
    def _bounded(label: Label, seen: set[str], value: str) -> str:
        if value in seen:
            return value
        if label.limit and len(seen) < label.limit:
            seen.add(value)
            return value
        return OTHER

    def _forget(self, values: tuple[str, ...]) -> bool:
        """Drop a series; its values make room for others. Tell whether it was there."""
        if not self._labels or self._children.pop(values, None) is None:
            return False
        self._metric.remove(*values)
        for place, label in enumerate(self._labels):
            if label.limit and not any(key[place] == values[place] for key in self._children):
                self._seen[place].discard(values[place])
        return True


def _arguments(name: str, help: str, labels: Sequence[Label]) -> tuple[str, str, list[str]]:
    return PREFIX + name, help, [label.name for label in labels]


class Counter(_Family[prometheus_client.Counter]):
    """Something that happens; *name* ends in ``_total``."""

    kind = "counter"

    def __init__(self, registry: CollectorRegistry, name: str, help: str, *labels: Label) -> None:
        assert name.endswith("_total"), f"counter {name}"
        arguments = _arguments(name, help, labels)
        metric = prometheus_client.Counter(*arguments, registry=registry)
        super().__init__(metric, name, help, labels)

    def inc(self, *labels: str, by: float = 1) -> None:
        """Count *by* more, at least 0."""
        self._child(labels).inc(by)

    def raise_to(self, total: float, *labels: str) -> None:
        """Take over a total that somebody adds up; what is less than before changes nothing."""
        child = self._child(labels)
        child._value.set(max(total, child._value.get()))

    def follow(self, read: Callable[[], float], *labels: str) -> None:
        """Take over what *read* says at each scrape: a total that only grows."""

        def samples(_: object) -> tuple[Sample, ...]:
            return (Sample("_total", {}, float(read()), None, None),)

        child: Any = self._child(labels)
        child._child_samples = types.MethodType(samples, child)

    def value(self, *labels: str) -> float:
        """Return the count, for status views and tests."""
        return _value(self._child(labels))


class Gauge(_Family[prometheus_client.Gauge]):
    """How much there is now."""

    kind = "gauge"

    def __init__(self, registry: CollectorRegistry, name: str, help: str, *labels: Label) -> None:
        assert not name.endswith("_total"), f"gauge {name}"
        arguments = _arguments(name, help, labels)
        metric = prometheus_client.Gauge(*arguments, registry=registry)
        super().__init__(metric, name, help, labels)

    def set(self, value: float, *labels: str) -> None:
        """Say how much there is."""
        self._child(labels).set(value)

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add *by*, which may be negative."""
        self._child(labels).inc(by)

    def follow(self, read: Callable[[], float], *labels: str) -> None:
        """Call *read* at each scrape: costs nothing in between. It must be quick and not fail."""
        self._child(labels).set_function(read)

    def forget(self, *labels: str) -> None:
        """Drop a series of something that is gone; absent is fine."""
        self._forget(labels)

    def value(self, *labels: str) -> float:
        """Return the value, for status views and tests."""
        return _value(self._child(labels))


class Histogram(_Family[prometheus_client.Histogram]):
    """How large, or how long (seconds)."""

    kind = "histogram"

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        help: str,
        *labels: Label,
        buckets: Sequence[float],
    ) -> None:
        assert not name.endswith("_total"), f"histogram {name}"
        arguments = _arguments(name, help, labels)
        metric = prometheus_client.Histogram(*arguments, registry=registry, buckets=buckets)
        super().__init__(metric, name, help, labels)

    def observe(self, value: float, *labels: str, trace: str = "") -> None:
        """Record one; *trace*, the id of the trace that it is of, becomes its bucket's exemplar."""
        self._child(labels).observe(value, _exemplar(trace))

    def exemplify(self, value: float, trace: str, *labels: str) -> None:
        """Say that *trace* is the trace of a *value* that was recorded by `observe_many`."""
        if (exemplar := _exemplar(trace)) is not None:
            child: Any = self._child(labels)
            bucket = child._buckets[bisect_left(child._upper_bounds, value)]
            bucket.set_exemplar(Exemplar(exemplar, value, time.time()))

    def observe_many(self, values: Mapping[float, int], *labels: str) -> None:
        """Record each of *values* so many times, at the cost of one each."""
        child = self._child(labels)
        for value, times in values.items():
            # What `observe` does, which knows no number of times.
            child._sum.inc(value * times)
            child._buckets[bisect_left(child._upper_bounds, value)].inc(times)

    def count(self, *labels: str) -> float:
        """Return how many were recorded, for tests."""
        return _value(self._child(labels), "_count")


def _exemplar(trace: str) -> dict[str, str] | None:
    return {"trace_id": trace} if len(trace) == TRACE_CHARS else None


def _value(child: Any, suffix: str | None = None) -> float:
    """Return the value of one series through the public collector interface."""
    for family in child.collect():
        for sample in family.samples:
            if suffix is None and not sample.name.endswith("_created"):
                return float(sample.value)
            if suffix is not None and sample.name.endswith(suffix):
                return float(sample.value)
    raise AssertionError("a series without a sample")
