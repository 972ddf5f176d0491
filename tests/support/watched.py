"""A cluster whose figures are looked at all the time: what moved, and how far it went."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

LOOK_S = 0.2
Series = tuple[str, frozenset[tuple[str, str]]]
"""Name of a sample and its labels."""


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=0.5) as answer:
        return str(answer.read(), "utf-8")


class Recorder(threading.Thread):
    """Scrapes *ports* again and again; keeps the largest value of each series of any of them."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        super().__init__(name="recorder", daemon=True)
        self._ports, self._over = ports, threading.Event()
        self.largest: dict[Series, float] = {}

    def run(self) -> None:
        """See `threading.Thread`."""
        while not self._over.wait(LOOK_S):
            for port in tuple(self._ports.values()):
                # It may be dead or frozen: that is what the tests are about.
                with contextlib.suppress(OSError):
                    self._look(_scrape(port))

    def _look(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = (sample.name, frozenset(sample.labels.items()))
                if sample.value > self.largest.get(series, 0.0):
                    self.largest[series] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """Return the largest value seen of any series of *name* with these *labels*."""
        return max(
            (
                value
                for (sample, found), value in self.largest.items()
                if sample == f"headrace_{name}" and labels.items() <= set(found)
            ),
            default=0.0,
        )

    def moved(self, name: str) -> bool:
        """Tell whether a series of the family *name* (with its prefix) was ever above zero."""
        names = {name, f"{name}_count"}
        return any(sample in names and value > 0 for (sample, _), value in self.largest.items())

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join(10)


@contextlib.contextmanager
def recording(ports: Mapping[str, int]) -> Iterator[Recorder]:
    """Record for as long as the context lasts."""
    recorder = Recorder(ports)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()
