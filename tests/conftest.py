"""Refuses unlisted skips when asked to (`--strict-skips`, see `support.skips`).

Also keeps tests that start servers out of each other's way: one of a group at a time. And what a
run has started ends with it, also when it is killed (`support.reaper`).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support import reaper, skips

# A machine that is slow, or busy with the other tests, is no finding. (Where `CI` is set,
# Hypothesis does the same by itself.)
settings.register_profile(
    "any-machine",
    parent=settings(),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")

SERVERS = {
    "commands": (
        "tests/integration/artifacts/",
        "tests/integration/dev/",
        "tests/integration/examples/",
        "tests/integration/local/",
        "tests/integration/system/",
    ),
    "stores": (
        "tests/conformance/archive/",
        "tests/integration/ai/",
        "tests/integration/backup/",
        "tests/integration/deploy/",
        "tests/integration/metrics/",
        "tests/integration/operations/",
        "tests/integration/polyglot/",
        "tests/integration/postgres/",
    ),
    "servers": (
        "tests/chaos/",
        "tests/conformance/shardlog/",
        "tests/integration/",
    ),
}
"""Folders of tests that start servers, in groups of about the same length: one after the other
within a group, so that a small machine is not asked for more than a few clusters. Ports are free
ones and files lie in folders of their own, so groups may run side by side, on one machine too.
What two groups name belongs to the first."""

_LIST = Path(__file__).parent / "skips.toml"
_KEY = "headrace_skipped"
_skipped = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="a skipped test fails the run unless tests/skips.toml names it, with a reason",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With `-n auto` one process more than there are cores: tests with servers mostly wait."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 3


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N` one of the N processes runs a group of tests that start servers, in their order.

    (The plugin's own way, groups, needs an attribute that newer versions of pytest ignore.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):  # type: ignore[misc]
        """Every test for itself, but those of a group of `SERVERS` together."""

        def _split_scope(self, nodeid: str) -> str:
            for group, folders in SERVERS.items():
                if nodeid.startswith(folders):
                    return group
            return nodeid

    return Grouped(config, log) if config.getvalue("dist").startswith("load") else None


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what it puts in the background, and every child would inherit it:
        # no Ctrl-C of a test would reach what it is meant for.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    reaping = reaper.start()
    if reaping is not None:
        config.add_cleanup(lambda: reaper.end(reaping))
    if config.getoption("--strict-skips"):
        config.stash[_skipped] = {}
        config.pluginmanager.register(_Watch(config), "strict-skips")


class _Watch:
    """Notes what is skipped, in each process of the run, and judges at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._skipped: dict[str, str] = config.stash[_skipped]

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        # An expected failure is reported as skipped too, and is as much of a hole.
        if report.skipped:
            why = report.longrepr
            self._skipped[report.nodeid] = str(why[2] if isinstance(why, tuple) else why or "xfail")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what a process of pytest-xdist has seen."""
        self._skipped.update(getattr(node, "workeroutput", {}).get(_KEY, {}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_KEY] = self._skipped
        elif self._unlisted() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for node_id in self._unlisted():
            terminalreporter.write_line(
                f"SKIPPED, NOT LISTED in tests/skips.toml: {node_id}: {self._skipped[node_id]}",
                red=True,
            )

    def _unlisted(self) -> list[str]:
        return skips.unlisted(self._skipped, skips.read(_LIST))
