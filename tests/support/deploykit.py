"""Renders what is below `deploy/`, and checks it against the schemas of those who read it."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "k8s" / "chart"
VERSIONS = ("1.27", "1.31", "1.34")
"""Releases of Kubernetes: the oldest that the chart takes, and later ones."""
RENDER_S = 60

# Kinds that are not Kubernetes' own.
_MODELS: dict[tuple[str, str], Any] = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): prometheus.ServiceMonitor,
    ("monitoring.coreos.com/v1", "PodMonitor"): prometheus.PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus.PrometheusRule,
}
_CERTIFICATE = {
    # Of cert-manager's Certificate only what the chart uses.
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "cert-manager.io/v1"},
        "kind": {"const": "Certificate"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["secretName", "issuerRef"],
            "properties": {
                "secretName": {"type": "string"},
                "commonName": {"type": "string", "maxLength": 64},
                "dnsNames": {"type": "array", "items": {"type": "string"}},
                "usages": {"type": "array", "items": {"enum": ["server auth", "client auth"]}},
                "issuerRef": {"type": "object", "required": ["name"]},
            },
        },
    },
}

Doc = dict[str, Any]


class Refused(Exception):
    """The program would not render; its words."""


def chart_accounts() -> str:
    """Return the accounts of the chart's NATS; the password of a role is `<role>-secret`."""
    text = (CHART / "charts" / "nats" / "files" / "accounts.conf").read_text()
    # In a cluster these are variables of the container.
    return re.sub(r"\$(\w+)_PASSWORD", lambda found: f'"{found[1].lower()}-secret"', text)


def tool(name: str) -> str:
    """Return the path of a program, or skip the test: see tests/skips.toml."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the PATH")
    return found


def run(*command: str | Path) -> str:
    """Run a program; return what it prints. Raises `Refused`."""
    ran = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=RENDER_S
    )
    if ran.returncode:
        raise Refused(ran.stderr or ran.stdout)
    return ran.stdout


@functools.cache
def _rendered(chart: Path, values: tuple[str, ...], options: tuple[str, ...], kube: str) -> str:
    files = [part for name in values for part in ("-f", str(CHART / "ci" / f"{name}-values.yaml"))]
    return run(
        *(tool("helm"), "template", "hr", chart, "--namespace", "flows", "--kube-version", kube),
        *(*files, *options),
    )


def chart(
    *values: str, options: Sequence[str] = (), kube: str = VERSIONS[1], folder: Path = CHART
) -> list[Doc]:
    """Return what the chart renders with *values* (names of files in `ci/`) and `--set` options."""
    text = _rendered(folder, values, tuple(options), f"{kube}.0")
    return [doc for doc in yaml.safe_load_all(text) if doc]


def kustomized(folder: Path) -> list[Doc]:
    """Return what kustomize makes of a folder."""
    if shutil.which("kustomize"):
        text = run("kustomize", "build", folder)
    else:
        text = run(tool("kubectl"), "kustomize", folder)
    return [doc for doc in yaml.safe_load_all(text) if doc]


def faults(doc: Doc, version: str) -> Iterator[str]:
    """Yield what is wrong with a document, by the schema of its kind; unknown fields too."""
    key = (doc["apiVersion"], doc["kind"])
    name = f"{doc['kind']} {doc['metadata']['name']}"
    if key in _MODELS:
        try:
            model = _MODELS[key].model_validate(doc)
        except ValueError as error:
            yield f"{name}: {error}"
            return
        # The models take what they do not know; it does not come back.
        known = json.loads(model.model_dump_json(by_alias=True, exclude_unset=True))
        if known != doc:
            yield f"{name}: unknown fields, or of another type: {_lost(doc, known)}"
    elif key == ("cert-manager.io/v1", "Certificate"):
        for error in jsonschema.Draft202012Validator(_CERTIFICATE).iter_errors(doc):
            yield f"{name}: {error.message}"
    else:
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {error.message} at {list(error.path)}"


def _lost(given: Any, known: Any, at: str = "") -> str:
    if isinstance(given, dict) and isinstance(known, dict):
        parts = [
            _lost(given[key], known.get(key), f"{at}.{key}")
            for key in given
            if given[key] != known.get(key)
        ]
        return "; ".join(parts)
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        pairs = enumerate(zip(given, known, strict=True))
        return "; ".join(_lost(a, b, f"{at}[{n}]") for n, (a, b) in pairs if a != b)
    return at


def only(docs: Sequence[Doc], kind: str, name: str) -> Doc:
    """Return the one document of that kind and name."""
    (found,) = (d for d in docs if d["kind"] == kind and d["metadata"]["name"] == name)
    return found


def of_kind(docs: Sequence[Doc], *kinds: str) -> list[Doc]:
    """Return the documents of these kinds."""
    return [doc for doc in docs if doc["kind"] in kinds]


def pod_of(doc: Doc) -> Doc:
    """Return the pod's spec of a Pod or of what makes pods."""
    return doc["spec"] if doc["kind"] == "Pod" else doc["spec"]["template"]["spec"]
