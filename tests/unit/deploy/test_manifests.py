"""The plain manifests: what the chart renders, and valid with every overlay."""

import importlib.util
import json

import pytest
import yaml

from support.deploykit import (
    DEPLOY,
    VERSIONS,
    chart,
    faults,
    kustomized,
    of_kind,
    only,
    pod_of,
    run,
    tool,
)

K8S = DEPLOY / "k8s"
FOLDERS = sorted(
    path.parent.relative_to(K8S).as_posix() for path in K8S.rglob("kustomization.yaml")
)


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("k8s_generate", K8S / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_base_is_what_the_chart_renders(generator):
    # Mend with: python deploy/k8s/generate.py
    rendered = run(
        *(tool("helm"), "template", "headrace", K8S / "chart", "--namespace", "headrace"),
        *("--kube-version", generator.KUBE, "-f", K8S / "base" / "values.yaml"),
    )
    for name, text in generator.files(rendered).items():
        assert (K8S / "base" / name).read_text() == text, name


def test_the_charts_logins_are_what_roles_may(generator):
    # Mend with: python deploy/k8s/generate.py
    assert generator.ACCOUNTS.read_text() == generator.with_passwords()


def test_there_are_no_secrets_in_the_base():
    docs = [
        doc
        for path in (K8S / "base").rglob("*.yaml")
        if path.name not in ("kustomization.yaml", "values.yaml")
        for doc in yaml.safe_load_all(path.read_text())
    ]
    assert docs
    assert of_kind(docs, "Secret") == []
    named = {
        volume["secret"]["secretName"]
        for doc in of_kind(docs, "StatefulSet", "Deployment")
        for volume in pod_of(doc)["volumes"]
        if "secret" in volume
    }
    assert named == {"headrace-accounts", "headrace-logins", "headrace-nats-tls"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_builds_and_is_valid(folder):
    docs = kustomized(K8S / folder)
    assert docs
    for version in VERSIONS:
        assert [fault for doc in docs for fault in faults(doc, version)] == []


def test_monitoring_is_an_option_with_all_alerts():
    base = kustomized(K8S / "base")
    assert of_kind(base, "ServiceMonitor", "PodMonitor", "PrometheusRule") == []
    production = kustomized(K8S / "overlays" / "production")
    monitors = of_kind(production, "ServiceMonitor", "PodMonitor")
    assert [doc["metadata"]["name"] for doc in monitors] == [
        "headrace-worker",
        "headrace-coordinator",
    ]
    (rules,) = of_kind(production, "PrometheusRule")
    source = DEPLOY / "alerts" / "headrace.rules.yaml"
    assert rules["spec"] == yaml.safe_load(source.read_text())


def dashboards(docs):
    return [doc for doc in of_kind(docs, "ConfigMap") if "dashboard" in doc["metadata"]["name"]]


def test_dashboards_are_an_option_and_fit():
    assert dashboards(kustomized(K8S / "base")) == []
    boards = dashboards(kustomized(K8S / "overlays" / "production"))
    files = {path.name: path.read_text() for path in (DEPLOY / "dashboards").glob("*.json")}
    assert len(files) >= 5
    assert {name: text for doc in boards for name, text in doc["data"].items()} == files
    # Names and labels are the chart's.
    charted = dashboards(chart("full"))
    assert {doc["metadata"]["name"].removeprefix("hr-") for doc in charted} == {
        doc["metadata"]["name"] for doc in boards
    }
    for doc in boards:
        assert doc["metadata"]["namespace"] == "headrace"
        assert doc["metadata"]["labels"]["grafana_dashboard"] == "1"
        # `kubectl apply` keeps the whole document in an annotation, which holds 256 KiB.
        assert len(json.dumps(doc)) < 200_000


def test_overlays_change_what_they_say():
    docs = kustomized(K8S / "overlays" / "production")
    assert only(docs, "Deployment", "headrace-worker-default")["spec"]["replicas"] == 6
    (claim,) = only(docs, "StatefulSet", "headrace-nats")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    external = kustomized(K8S / "overlays" / "external-nats")
    for doc in of_kind(external, "StatefulSet", "Deployment"):
        servers = pod_of(doc)["containers"][0]["env"][0]
        assert servers["name"] == "HEADRACE_CFG_BROKER__SERVERS"
        assert servers["value"].startswith("tls://nats-a.example.org:4222")
    assert not [doc for doc in external if doc["metadata"]["name"].startswith("headrace-nats")]
