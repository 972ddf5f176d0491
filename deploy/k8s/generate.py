"""Writes the plain manifests below `base/` from the chart, so that the two cannot disagree.

Usage: python deploy/k8s/generate.py     (needs helm and PyYAML)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
BASE = HERE / "base"
KUBE = "1.31.0"
HEAD = (
    "# Written by deploy/k8s/generate.py from the chart: change base/values.yaml, or an overlay.\n"
)
FILES = {
    "broker": "nats/nats.yaml",
    "coordinator": "headrace/coordinators.yaml",
    "worker": "headrace/workers.yaml",
}
MONITORS = ("ServiceMonitor", "PodMonitor", "PrometheusRule")


def main() -> None:
    """Write all files."""
    ran = subprocess.run(
        [
            *("helm", "template", "headrace", str(HERE / "chart"), "--kube-version", KUBE),
            *("--namespace", "headrace", "-f", str(BASE / "values.yaml")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if ran.returncode:
        sys.exit(f"error: helm: {ran.stderr.strip()}")
    for name, text in files(ran.stdout).items():
        path = BASE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def files(rendered: str) -> dict[str, str]:
    """Return the files of the base, by name, from what helm has rendered."""
    sorted_out: dict[str, list[str]] = {}
    for doc in yaml.safe_load_all(rendered):
        if doc is not None:
            plain(doc)
            sorted_out.setdefault(place(doc), []).append(
                yaml.safe_dump(doc, sort_keys=False, allow_unicode=True, width=100)
            )
    return {name: HEAD + "---\n".join(docs) for name, docs in sorted(sorted_out.items())}


def place(doc: dict[str, Any]) -> str:
    """Return the file that a document belongs to."""
    if doc["kind"] in MONITORS:
        return "monitoring/monitoring.yaml"
    component = doc["metadata"]["labels"].get("app.kubernetes.io/component", "")
    if doc["kind"] == "NetworkPolicy" and component != "broker":
        return "headrace/network-policies.yaml"
    if doc["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
        return "headrace/accounts.yaml"
    return FILES[component]


def plain(node: Any) -> None:
    """Take out what is helm's."""
    if isinstance(node, dict):
        for labels in (node.get("labels"), node.get("matchLabels")):
            if isinstance(labels, dict):
                labels.pop("helm.sh/chart", None)
                labels.pop("app.kubernetes.io/managed-by", None)
        for value in node.values():
            plain(value)
    elif isinstance(node, list):
        for value in node:
            plain(value)


if __name__ == "__main__":
    main()
