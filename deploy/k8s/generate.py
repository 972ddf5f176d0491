"""Writes the chart's logins from the rights of roles, and the plain manifests from the chart.

So neither can disagree with what it is made from.

Usage: python deploy/k8s/generate.py     (needs helm and PyYAML)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from headrace.flowctl._accounts import User, accounts

HERE = Path(__file__).parent
BASE = HERE / "base"
ACCOUNTS = HERE / "chart" / "charts" / "nats" / "files" / "accounts.conf"
KUBE = "1.31.0"
HEAD = (
    "# Written by deploy/k8s/generate.py from the chart: change base/values.yaml, or an overlay.\n"
)
FILES = {
    "broker": "nats/nats.yaml",
    "coordinator": "headrace/coordinators.yaml",
    "worker": "headrace/workers.yaml",
}
ANY = ("*",)
LOGINS = (
    User(role="coordinator", name="coordinator", public_key="coordinator"),
    User(role="operator", name="operator", public_key="operator"),
    User(role="pool", name="worker", namespaces=ANY, capabilities=ANY, public_key="worker"),
    User(role="client", name="client", namespaces=ANY, public_key="client"),
)
"""The chart's own: roles are apart, tenants and pools are not."""
MONITORING = {
    "ServiceMonitor": "monitoring/monitoring.yaml",
    "PodMonitor": "monitoring/monitoring.yaml",
    "PrometheusRule": "monitoring/rules.yaml",
}
"""Not part of the base: for clusters with the Prometheus operator."""


def main() -> None:
    """Write all files."""
    ACCOUNTS.parent.mkdir(exist_ok=True)
    ACCOUNTS.write_text(with_passwords())
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


def with_passwords() -> str:
    """Return the accounts that the chart's NATS servers have, with passwords from variables."""
    made = accounts(LOGINS) | {"SYS": {"users": [{"nkey": "system"}]}}
    text = re.sub(
        r'"nkey": "(\w+)"',
        lambda found: f'"user": "{found[1]}", "password": ${found[1].upper()}_PASSWORD',
        json.dumps(made, indent=1),
    )
    return f"accounts: {text}\n"


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
    if doc["kind"] in MONITORING:
        return MONITORING[doc["kind"]]
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
