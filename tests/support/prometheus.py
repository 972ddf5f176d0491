"""A real Prometheus on loopback; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace.bus import free_port

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or PROMTOOL is None, reason="the Debian package prometheus is not installed"
)
ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts" / "headrace.rules.yaml"
START_S = 20.0


class Prometheus:
    """Scrapes *targets* (role -> ports) each second, and evaluates the project's rules.

    *labels*: more labels of a role's targets. *rules*: more files of rules.
    """

    def __init__(
        self,
        folder: Path,
        targets: dict[str, Iterable[int]],
        *,
        labels: Mapping[str, Mapping[str, str]] | None = None,
        rules: Iterable[Path] = (),
    ) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            {
                "job_name": f"headrace-{role}",
                "honor_labels": True,
                "static_configs": [
                    {
                        "targets": [f"127.0.0.1:{port}" for port in ports],
                        "labels": {"cluster": "test", **(labels or {}).get(role, {})},
                    }
                ],
            }
            for role, ports in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES), *map(str, rules)],
            "scrape_configs": jobs,
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))

    def start(self) -> None:
        """Start, and return once it answers."""
        assert PROMETHEUS is not None
        with (self._folder / "log").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.query("vector(1)")
            except OSError:
                assert self._process.poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.05)
            else:
                return

    def said(self) -> str:
        """Return what it logged."""
        return (self._folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def api(self, path: str, **arguments: str) -> Any:
        """Return the data of an answer of its HTTP interface."""
        query = urllib.parse.urlencode(arguments)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.loads(answer.read())
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives now; raises `HTTPError` for one that is not valid."""
        found: list[dict[str, Any]] = self.api("query", query=expression)["result"]
        return found
