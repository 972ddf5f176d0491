"""What Kubernetes' autoscaler asks for numbers of Headrace: Prometheus, and its adapter.

Both are plain processes of the node. What is scraped, and how it is labelled, is what the chart's
monitors say; what is recorded, its rule; how the adapter asks, the lines of docs/deploy.md.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from support.deploykit import DEPLOY
from support.kube.node import ADDRESS
from support.kube.release import SPACE, Release

Doc = dict[str, Any]
PROMETHEUS_PORT = 9090
ADAPTER_PORT = 6444
GROUP = "external.metrics.k8s.io"
_DEPLOYING = DEPLOY.parent / "docs" / "deploy.md"
_META: Doc = {"name": "metrics-adapter", "namespace": "kube-system"}


class Autoscaler:
    """The way of a pool's demand to the autoscaler, on the node of *release*."""

    def __init__(self, release: Release) -> None:
        self._node = release.node
        self._kubectl = release.kubectl
        self._pods = release.pods
        self._folder = release.node.state / "prometheus"

    def start(self) -> None:
        """Start both, and have the API server ask the adapter."""
        self._folder.mkdir()
        self.discover()
        (self._folder / "rules.yaml").write_text(json.dumps(self._recorded()))
        (self._folder / "config.yaml").write_text(json.dumps(self._config()))
        (self._folder / "adapter.yaml").write_text(json.dumps({"externalRules": adapter_rules()}))
        self._node.spawn(
            *("prometheus", "prometheus", f"--config.file={self._folder}/config.yaml"),
            *(f"--storage.tsdb.path={self._folder}/data",),
            f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}",
        )
        admin = self._node.config("admin")
        self._node.spawn(
            *("adapter", self._node.tools / "adapter", f"--secure-port={ADAPTER_PORT}"),
            *(f"--lister-kubeconfig={admin}", f"--authentication-kubeconfig={admin}"),
            *(f"--authorization-kubeconfig={admin}", f"--cert-dir={self._folder}"),
            *(f"--config={self._folder}/adapter.yaml", "--metrics-relist-interval=5s"),
            f"--prometheus-url=http://127.0.0.1:{PROMETHEUS_PORT}",
        )
        self._node.apply(_objects())

    def discover(self) -> None:
        """Tell Prometheus which pods there are, as its own discovery would: Debian's has none."""
        for component in ("coordinator", "worker"):
            found = [_target(pod) for pod in self._pods(component).values()]
            text = json.dumps([target for target in found if target is not None])
            fresh = self._folder / f"{component}.json.new"
            fresh.write_text(text)
            fresh.rename(self._folder / f"{component}.json")

    def _recorded(self) -> Doc:
        """Return the groups of rules that the chart brings for its pools."""
        found = self._objects("prometheusrule")
        groups = [group for rule in found for group in rule["spec"]["groups"]]
        return {"groups": [group for group in groups if group["name"] == "headrace-pools"]}

    def _config(self) -> Doc:
        monitors = {
            "coordinator": self._objects("servicemonitor")[0]["spec"]["endpoints"],
            "worker": self._objects("podmonitor")[0]["spec"]["podMetricsEndpoints"],
        }
        jobs = [
            {
                "job_name": name,
                "honor_labels": endpoint["honorLabels"],
                "file_sd_configs": [{"files": [f"{self._folder}/{name}.json"]}],
                "relabel_configs": [_snake(rule) for rule in endpoint["relabelings"]],
            }
            for name, (endpoint,) in monitors.items()
        ]
        pace = {"scrape_interval": "3s", "evaluation_interval": "3s", "scrape_timeout": "3s"}
        return {"global": pace, "rule_files": ["rules.yaml"], "scrape_configs": jobs}

    def _objects(self, kind: str) -> list[Doc]:
        items: list[Doc] = json.loads(self._kubectl("get", kind, "-o", "json"))["items"]
        return items


def adapter_rules() -> list[Doc]:
    """Return the rules that docs/deploy.md has for the adapter."""
    blocks = re.findall(r"```yaml\n(.*?)```", _DEPLOYING.read_text(), re.DOTALL)
    found: list[Doc] = next(
        block["rules"]["external"] for block in map(yaml.safe_load, blocks) if "rules" in block
    )
    return found


def _target(pod: Doc) -> Doc | None:
    """Return what the discovery of Prometheus knows of a pod; None: it has no address yet."""
    address = pod["status"].get("podIP")
    if not address:
        return None
    (container,) = pod["spec"]["containers"]
    (port,) = (p["containerPort"] for p in container["ports"] if p["name"] == "metrics")
    labels = {
        "__meta_kubernetes_namespace": SPACE,
        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
    }
    for name, value in pod["metadata"]["labels"].items():
        labels[f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}"] = value
    return {"targets": [f"{address}:{port}"], "labels": labels}


def _snake(rule: Doc) -> Doc:
    """Return a monitor's relabelling as Prometheus' own configuration spells it."""
    return {re.sub(r"([A-Z])", lambda m: f"_{m[1].lower()}", key): v for key, v in rule.items()}


def _objects() -> list[Doc]:
    """Return what registers the adapter, and lets the autoscaler ask it."""
    rules = [{"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _META["name"]}
    account = {
        "kind": "ServiceAccount",
        "name": "horizontal-pod-autoscaler",
        "namespace": "kube-system",
    }
    port = {"port": 443, "protocol": "TCP", "targetPort": ADAPTER_PORT}
    slice_meta = _META | {"labels": {"kubernetes.io/service-name": _META["name"]}}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": _META, "spec": {"ports": [port]}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": slice_meta,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
            "ports": [{"port": ADAPTER_PORT, "protocol": "TCP"}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": _META["name"], "namespace": _META["namespace"]},
            },
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": _META["name"]},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _META["name"]},
            "roleRef": role,
            "subjects": [account],
        },
    ]
