"""What is tried on a cluster, in this order: each step says what it found, or raises `Failed`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import yaml

from support.deploykit import CHART, of_kind, pod_of
from support.kube.autoscaler import Autoscaler
from support.kube.node import Node
from support.kube.release import FULL, NAME, SPACE, Release
from support.kube.run import Failed

PROFILE = "pod-security.kubernetes.io/enforce"
CASES = ("", "minimal", "external", "full")
# Kinds that operators bring. Their fields are checked against their own schemas by unit tests.
FOREIGN = {
    "keda.sh": ("v1alpha1", "ScaledObject"),
    "monitoring.coreos.com": ("v1", "ServiceMonitor", "PodMonitor", "PrometheusRule"),
    "cert-manager.io": ("v1", "Certificate"),
}
KUBE = "1.34.0"
POOL = f"{FULL}-worker-default"
MOST = 4
"""Workers that the autoscaler may have; each has one slot."""
HPA = (
    *("--set", "workers[0].name=default", "--set", "workers[0].capabilities={default,linux}"),
    *("--set", "workers[0].slots=1", "--set", "workers[0].autoscaling.type=hpa"),
    *("--set", f"workers[0].autoscaling.maxReplicas={MOST}"),
    *("--set", "workers[0].autoscaling.cooldownSeconds=15", "--set", "monitoring.enabled=true"),
)
# Prints the view of a run while its step runs, and how it ended.
LONG = """
cat > long.yaml <<'END'
name: long
jobs: {one: {runs-on: linux, timeout-minutes: 2, steps: [{run: sleep 20}]}}
END
run=$(flowctl submit long.yaml -o name)
until flowctl get $run -o json > run.json && grep -q '"worker"' run.json; do sleep 0.2; done
python3 -c 'import json
steps = json.load(open("run.json"))["steps"]
print(json.dumps({"worker": [step["worker"] for step in steps if step.get("worker")][0]}))'
while ! flowctl get $run -o json | tee run.json | grep -q COMPLETED; do sleep 1; done
python3 -c 'import json
run = json.load(open("run.json"))
attempts = max(step.get("attempt", 0) for step in run["steps"])
print(json.dumps({"state": run["state"], "attempts": attempts}))'
"""


def namespaces(release: Release) -> str:
    """Make the namespaces; pods of another profile than `restricted` are refused there."""
    for name in (SPACE, "documents"):
        meta = {"name": name, "labels": {PROFILE: "restricted"}}
        release.node.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}])
    return "restricted is enforced"


def documents(release: Release) -> str:
    """Every document of every example is taken by the API server, and every pod admitted."""
    node = release.node
    _define(node)
    seen = 0
    pods: list[dict[str, Any]] = []
    for case in CASES:
        files = ["-f", str(CHART / "ci" / f"{case}-values.yaml")] if case else []
        text = release.helm("template", NAME, CHART, "--kube-version", KUBE, *files)
        docs = [doc for doc in yaml.safe_load_all(text) if doc]
        seen += len(docs)
        for doc in docs:
            doc["metadata"]["namespace"] = "documents"
        said = node.apply(docs, "--dry-run=server", "--validate=strict")
        if "Warning" in said:
            raise Failed(f"{case}: {said}")
        for doc in of_kind(docs, "StatefulSet", "Deployment", "Pod"):
            meta = {"generateName": "try-", "namespace": "documents"}
            spec = {**pod_of(doc), "serviceAccountName": "default"}
            claims = doc["spec"].get("volumeClaimTemplates", ())
            spec["volumes"] = [
                *spec["volumes"],
                *({"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims),
            ]
            # Classes are the cluster's owner's to make.
            spec.pop("priorityClassName", None)
            spec.pop("runtimeClassName", None)
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    for pod in pods:
        node.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
    return f"{seen} documents, {len(pods)} pods"


def _define(node: Node) -> None:
    """Make the kinds that operators would bring."""
    node.apply([_definition(group, kind) for group, kinds in FOREIGN.items() for kind in kinds[1:]])
    for group, kinds in FOREIGN.items():
        for kind in kinds[1:]:
            node.kubectl("wait", "--for=condition=Established", f"crd/{kind.lower()}s.{group}")


def _definition(group: str, kind: str) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    version = {
        "name": FOREIGN[group][0],
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


def install(release: Release) -> str:
    """Default values: everything becomes ready, and nothing had to be started twice."""
    release.upgrade()
    restarts = {
        name: status["restartCount"]
        for component in ("coordinator", "worker", "broker")
        for name, pod in release.pods(component).items()
        for status in pod["status"]["containerStatuses"]
    }
    if len(restarts) != 8 or any(restarts.values()):
        raise Failed(f"restarts: {restarts}")
    return f"{len(restarts)} pods are ready, none was started twice"


def helm_test(release: Release) -> str:
    """`helm test` runs its workflow."""
    said = release.helm("test", NAME, "--logs", "--timeout=120s", timeout_s=150)
    if "Succeeded" not in said or "COMPLETED" not in said:
        raise Failed(said)
    return "a workflow ran from end to end"


def from_outside(release: Release) -> str:
    """The commands of the notes let flowctl in; a client and an operator may what they should."""
    with release.outside() as flowctl:
        status = flowctl("cluster", "status")
        if "synced to disk" not in status:
            raise Failed(status)
        listed = json.loads(flowctl("workers", "-o", "json"))
    return f"flowctl through a forwarded port sees {len(listed)} workers"


def scaling(release: Release) -> str:
    """Workers come and go under load: nothing fails, and no step is lost."""
    with release.load("scaling", 40, 2) as report:
        _scale(release, 4)
        _scale(release, 1)
    _whole(report, lost=False)
    _scale(release, 2)
    back = f"{report['returned']} steps handed back"
    return f"{report['runs']} runs while there were 2, 4 and 1 workers; none lost, {back}"


def drain(release: Release) -> str:
    """A worker that has to go finishes its step first, however long its preStop hook must wait."""
    release.client("long", "sh", "-c", LONG)
    release.wait("the long step runs", lambda: release.told("long"), 60)
    name = release.told("long")["worker"].partition(".")[0]
    before = time.monotonic()
    release.kubectl("delete", "pod", name, timeout_s=120)
    took_s = time.monotonic() - before
    release.wait("the long run ends", lambda: release.phase("long") in ("Succeeded", "Failed"), 60)
    last = release.told("long")
    release.kubectl("delete", "pod", "long", "--now")
    if last != {"state": "COMPLETED", "attempts": 1} or took_s < 5:
        raise Failed(f"{last} after {took_s:.0f} s")
    return f"the pod went {took_s:.0f} s after it was told to; its step ended at the first attempt"


def upgrade(release: Release) -> str:
    """A changed value replaces every process of ours under load; no run fails."""
    old = _uids(release, "coordinator", "worker")
    with release.load("upgrade", 60, 2) as report:
        release.upgrade("--set", "log.level=debug")
    if old & _uids(release, "coordinator", "worker"):
        raise Failed("not every pod was replaced")
    _whole(report)
    return f"{report['runs']} runs while all of ours was replaced; {_again(report)}"


def upgrade_with_the_servers(release: Release) -> str:
    """A change replaces coordinators, workers and NATS, all under way at once; no run fails."""
    parts = ("coordinator", "worker", "broker")
    old = _uids(release, *parts)
    with release.load("servers", 90, 2) as report:
        release.upgrade("--set", "log.level=info", "--set", "nats.jetstream.maxMemoryStore=600MB")
    if old & _uids(release, *parts):
        raise Failed("not every pod was replaced")
    _whole(report)
    return f"{report['runs']} runs while all and NATS were replaced; {_again(report)}"


def autoscaling(release: Release) -> str:
    """The autoscaler of Kubernetes asks for workers while steps wait, and lets them go after."""
    node = release.node
    _define(node)
    release.upgrade(*HPA)
    autoscaler = Autoscaler(release)
    autoscaler.start()
    seen = [0]

    def workers() -> int:
        autoscaler.discover()
        seen.append(len(release.pods("worker")))
        return seen[-1]

    active = '-o=jsonpath={.status.conditions[?(@.type=="ScalingActive")].status}'
    asked = ("get", f"hpa/{POOL}", active)
    release.wait(
        "numbers for the autoscaler", lambda: workers() and release.kubectl(*asked) == "True"
    )
    with release.load("demand", 60, 2) as report:
        release.wait("more workers", lambda: workers() >= MOST)
    release.wait("fewer workers", lambda: workers() == 1)
    release.upgrade()
    _whole(report)
    if max(seen) > MOST:
        raise Failed(f"{max(seen)} workers, {MOST} are allowed")
    return f"{report['runs']} runs had 1 to {MOST} workers and then 1; {_again(report)}"


def loss_of_a_coordinator(release: Release) -> str:
    """A coordinator is killed without notice under load; no run fails."""
    return _harmed(release, "loss", f"{FULL}-coordinator-0", "--grace-period=0", "--force")


def restart_of_a_server(release: Release) -> str:
    """A NATS server is replaced under load; no run fails."""
    return _harmed(release, "server", f"{NAME}-nats-0")


def _harmed(release: Release, name: str, pod: str, *how: str) -> str:
    with release.load(name, 40, 2) as report:
        release.kubectl("delete", "pod", pod, *how, timeout_s=150)
        release.rolled_out()
    _whole(report)
    return f"{report['runs']} runs; {_again(report)}"


def again(release: Release) -> str:
    """Uninstalled and installed again, it knows what was: logins, certificate and data stayed."""
    secret = ("get", "secret", f"{NAME}-nats-auth", "-o", "jsonpath={.data}")
    logins = release.kubectl(*secret)
    with release.outside() as flowctl:
        runs = json.loads(flowctl("list", "--limit", "5", "-o", "json"))
    release.helm("uninstall", NAME, "--wait", "--timeout=200s", timeout_s=220)
    stays = {f"{FULL}-test"}
    release.wait("all pods are gone", lambda: set(release.pods()) <= stays, 120)
    release.upgrade()
    with release.outside() as flowctl:
        found = json.loads(flowctl("list", "--limit", "5", "-o", "json"))
    if release.kubectl(*secret) != logins or _ids(found) != _ids(runs):
        raise Failed(f"other logins, or other runs: {_ids(found)}, {_ids(runs)}")
    return "the same logins, certificate and runs"


def _scale(release: Release, workers: int) -> None:
    release.kubectl("scale", f"deployment/{POOL}", f"--replicas={workers}")
    release.rolled_out()
    release.wait(f"{workers} workers", lambda: len(release.pods("worker")) == workers)


def _uids(release: Release, *components: str) -> set[str]:
    return {pod["metadata"]["uid"] for name in components for pod in release.pods(name).values()}


def _ids(runs: list[dict[str, Any]]) -> list[str]:
    return [run["id"] for run in runs]


def _whole(report: dict[str, Any], *, lost: bool = True) -> None:
    failed = report["states"] != {"COMPLETED": report["runs"]}
    # No worker is killed here: what is sent again, nobody had begun.
    if failed or report["twice"] or (report["lost"] and not lost):
        raise Failed(json.dumps(report))


def _again(report: dict[str, Any]) -> str:
    """Say how many steps had to be sent again, and why."""
    lost = ", ".join(f"{count} {reason}" for reason, count in report["lost"].items())
    sent = f"{sum(report['lost'].values())} steps sent again" + (f" ({lost})" if lost else "")
    return f"{sent}, {report['returned']} handed back, none begun twice"


STEPS: tuple[Callable[[Release], str], ...] = (
    *(namespaces, documents, install, helm_test, from_outside, scaling, autoscaling, drain),
    *(upgrade, upgrade_with_the_servers, loss_of_a_coordinator, restart_of_a_server, again),
)
