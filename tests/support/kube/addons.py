"""What a cluster has beside Kubernetes itself: names (CoreDNS) and volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.kube.node import DNS, NODE

Doc = dict[str, Any]
_COREFILE = """\
.:53 {
    errors
    ready
    kubernetes cluster.local {
        pods insecure
    }
}
"""
_LABELS = {"k8s-app": "kube-dns"}
_META: Doc = {"name": "coredns", "namespace": "kube-system", "labels": _LABELS}


def volumes(folder: Path, number: int) -> list[Doc]:
    """Return *number* volumes of this machine's disk, and the class that claims get by default."""
    docs: list[Doc] = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "disk",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    ]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    for index in range(number):
        path = folder / f"volume-{index}"
        path.mkdir(parents=True, exist_ok=True)
        docs.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": path.name},
                "spec": {
                    "capacity": {"storage": "20Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "disk",
                    "local": {"path": str(path)},
                    "nodeAffinity": {
                        "required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}
                    },
                },
            }
        )
    return docs


def names() -> list[Doc]:
    """Return the server of names, as every cluster has one."""
    read = {
        "apiGroups": ["", "discovery.k8s.io"],
        "resources": ["endpoints", "services", "pods", "namespaces", "endpointslices"],
        "verbs": ["list", "watch"],
    }
    rbac = "rbac.authorization.k8s.io"
    container = {
        "name": "coredns",
        "image": "headrace/coredns:test",
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    ports = [
        {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": "dns-tcp", "protocol": "TCP"},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _META},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": [read],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _META,
            "data": {"Corefile": _COREFILE},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _META,
            "spec": {
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _META | {"name": "kube-dns"},
            "spec": {"clusterIP": DNS, "selector": _LABELS, "ports": ports},
        },
    ]
