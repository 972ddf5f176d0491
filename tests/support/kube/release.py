"""One release of the chart, handled as by those who run it: helm, kubectl, flowctl."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from support.deploykit import CHART
from support.kube.node import Node
from support.kube.run import Failed, run, until

NAME = "orders"
SPACE = "flows"
FULL = f"{NAME}-headrace"
WAIT_S = 300
LOAD = Path(__file__).parents[2] / "kubernetes" / "load.py"
# Requests for processors are made small, so that all pods fit on one machine; nothing else differs
# from what a user gets.
_SMALL: dict[str, Any] = {"resources": {"requests": {"cpu": "20m"}}}
VALUES: dict[str, Any] = {
    "coordinator": _SMALL,
    "workerDefaults": _SMALL,
    "nats": _SMALL | {"image": {"repository": "headrace/nats", "tag": "0.1.0"}},
}


class Release:
    """The chart, installed."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._values = node.state / "values.json"
        self._values.write_text(json.dumps(VALUES))

    # -- helm and kubectl ------------------------------------------------------------------------

    def helm(self, *words: str | Path, timeout_s: float = 60) -> str:
        """Run helm in the release's namespace; return what it prints."""
        config = f"--kubeconfig={self.node.config('admin')}"
        return run(
            self.node.tools / "helm", config, "-n", SPACE, *words, timeout_s=timeout_s
        ).strip()

    def upgrade(self, *options: str) -> str:
        """Install or upgrade, and wait until all is ready; return the notes."""
        wait = ("--wait", f"--timeout={WAIT_S}s", "-f", self._values)
        return self.helm(
            "upgrade", "--install", NAME, CHART, *wait, *options, timeout_s=WAIT_S + 30
        )

    def kubectl(self, *words: str | Path, timeout_s: float = 60) -> str:
        """Run kubectl in the release's namespace; return what it prints."""
        return self.node.kubectl("-n", SPACE, *words, timeout_s=timeout_s)

    def pods(self, component: str = "") -> dict[str, dict[str, Any]]:
        """Return the release's pods by name; those of one component, if given."""
        labels = f"app.kubernetes.io/instance={NAME}"
        labels += f",app.kubernetes.io/component={component}" if component else ""
        found = json.loads(self.kubectl("get", "pods", "-l", labels, "-o", "json"))
        return {pod["metadata"]["name"]: pod for pod in found["items"]}

    def wait(self, what: str, check: Callable[[], object], within_s: float = WAIT_S) -> None:
        """Wait until *check* holds. Raises `Failed`."""
        until(what, check, within_s)

    def rolled_out(self) -> None:
        """Wait until every set has what it was told to have."""
        for kind in ("statefulset", "deployment"):
            names = self.kubectl("get", kind, "-o", "name").split()
            for name in names:
                status = ("rollout", "status", f"--timeout={WAIT_S}s", name)
                self.kubectl(*status, timeout_s=WAIT_S + 10)

    # -- flowctl, from outside: as the notes say -------------------------------------------------

    @contextlib.contextmanager
    def outside(self) -> Iterator[Callable[..., str]]:
        """Run the commands of the chart's notes in a shell; yield flowctl with what they set."""
        notes = self.helm("get", "notes", NAME)
        block = notes.split("Use flowctl from your machine:")[1].split("flowctl cluster status")[0]
        seen = self.node.state / "environment"
        seen.unlink(missing_ok=True)
        env = {**os.environ, "KUBECONFIG": str(self.node.config("admin"))}
        shell = subprocess.Popen(
            ["bash", "-ec", f"{block}\nenv -0 > environment\nsleep 3600\n"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.node.state,
            env=env,
            start_new_session=True,
        )
        try:
            self.wait(
                "the commands of the notes", lambda: seen.exists() and seen.stat().st_size, 30
            )
            pairs = (part.split("=", 1) for part in seen.read_text().split("\0") if "=" in part)
            set_there = {name: value for name, value in pairs}
            flowctl = Path(sys.executable).with_name("flowctl")
            ca = {"FLOWCTL_TLS_CA_FILE": str(self.node.state / "ca.crt")}

            def ask(*words: str, timeout_s: float = 60) -> str:
                return run(flowctl, *words, env=set_there | ca, timeout_s=timeout_s)

            self.wait("flowctl from outside", lambda: ask("workers"), 60)
            yield ask
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()

    # -- load, from inside -----------------------------------------------------------------------

    def client(self, name: str, *command: str, labels: dict[str, str] | None = None) -> None:
        """Start a pod as the chart's own test is one, with another command."""
        hooks = self.helm("get", "hooks", NAME)
        pod = next(doc for doc in yaml.safe_load_all(hooks) if doc["kind"] == "Pod")
        spec = pod["spec"]
        (container,) = spec["containers"]
        container |= {"command": list(command), "args": [], "workingDir": "/tmp"}
        container["env"].append({"name": "LOAD", "value": name})
        # The chart's own file belongs to its test.
        for volume in spec["volumes"]:
            if "configMap" in volume:
                volume["configMap"]["name"] = "load"
        meta = {"name": name, "namespace": SPACE}
        meta["labels"] = {"headrace/client": "true"} if labels is None else labels  # type: ignore[assignment]
        self.node.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}])

    @contextlib.contextmanager
    def load(self, name: str, seconds: int, pace: float) -> Iterator[dict[str, Any]]:
        """Submit runs meanwhile; afterwards the dictionary holds what became of them."""
        script = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}}
        script["metadata"]["namespace"] = SPACE  # type: ignore[index]
        self.node.apply([script | {"data": {"load.py": LOAD.read_text()}}])
        self.client(name, "python3", "/test/load.py", str(seconds), str(pace))
        self.wait("the load runs", lambda: self.phase(name) == "Running", 60)
        report: dict[str, Any] = {}
        yield report
        self.wait("the load ends", lambda: self.phase(name) in ("Succeeded", "Failed"))
        if self.phase(name) != "Succeeded":
            raise Failed(f"the load failed: {self.kubectl('logs', name)[-2000:]}")
        report |= self.told(name)
        self.kubectl("delete", "pod", name, "--now")

    def told(self, pod: str) -> dict[str, Any]:
        """Return the last object of JSON that a pod has printed; empty: none yet."""
        lines = self.kubectl("logs", pod).splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return found[-1] if found else {}

    def phase(self, pod: str) -> str:
        """Return the phase of a pod."""
        return self.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}")
