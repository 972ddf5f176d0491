"""The chart, rendered by helm: it is valid, and keeps what it promises."""

import re
import shlex

import click
import pytest
import yaml

from headrace.config import load
from headrace.flowctl._app import cli
from headrace.telemetry import lane_label
from support.deploykit import (
    CHART,
    DEPLOY,
    VERSIONS,
    Refused,
    chart,
    faults,
    of_kind,
    only,
    pod_of,
    run,
    tool,
)

CASES = ((), ("minimal",), ("external",), ("full",))
PODS = ("Deployment", "StatefulSet", "Pod")


def case_id(values):
    return "-".join(values) or "default"


@pytest.mark.parametrize("values", CASES, ids=case_id)
def test_the_chart_is_linted(values):
    files = [part for name in values for part in ("-f", CHART / "ci" / f"{name}-values.yaml")]
    run(tool("helm"), "lint", "--strict", CHART, "--kube-version", f"{VERSIONS[1]}.0", *files)


@pytest.mark.parametrize("kube", VERSIONS)
@pytest.mark.parametrize("values", CASES, ids=case_id)
def test_everything_rendered_is_valid(values, kube):
    docs = chart(*values, kube=kube)
    assert len(docs) >= 10
    assert [fault for doc in docs for fault in faults(doc, kube)] == []


def test_a_wrong_field_is_seen():
    docs = chart("full")
    for kind in ("Deployment", "ScaledObject", "ServiceMonitor", "Certificate"):
        doc = of_kind(docs, kind)[0]
        assert list(faults({**doc, "spec": {**doc["spec"], "replicaz": 1}}, VERSIONS[1])), kind


@pytest.mark.parametrize("values", CASES, ids=case_id)
def test_names_are_told_apart_and_selectors_find_their_pods(values):
    docs = chart(*values)
    names = [(doc["kind"], doc["metadata"]["name"]) for doc in docs]
    assert len(set(names)) == len(names)
    pods = [
        doc["spec"]["template"]["metadata"]["labels"]
        for doc in of_kind(docs, "Deployment", "StatefulSet")
    ]
    for doc in docs:
        selector = doc.get("spec", {}).get("selector") or doc.get("spec", {}).get("podSelector")
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= labels.items() for labels in pods), doc["metadata"]


# -- security -------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", CASES, ids=case_id)
def test_pods_keep_to_the_restricted_profile(values):
    for doc in of_kind(chart(*values), *PODS):
        pod = pod_of(doc)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context.get("privileged")
            assert container["resources"]["requests"], container["name"]
            assert container["resources"]["limits"]["memory"], container["name"]
        for volume in pod.get("volumes", ()):
            assert "hostPath" not in volume


def test_no_token_of_kubernetes_without_rules():
    docs = chart("full")
    mounted = {
        doc["metadata"]["name"]: pod_of(doc).get("automountServiceAccountToken")
        for doc in of_kind(docs, *PODS)
    }
    assert {name for name, yes in mounted.items() if yes is not False} == {
        "hr-headrace-worker-deploy"
    }
    role = only(docs, "Role", "hr-headrace-worker-deploy")
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]}
    ]


@pytest.mark.parametrize("values", [(), ("full",)], ids=case_id)
def test_a_role_sees_its_own_login_only(values):
    docs = chart(*values)
    for doc in of_kind(docs, *PODS):
        role = doc["spec"].get("template", doc)["metadata"]["labels"]["app.kubernetes.io/component"]
        if role == "broker":
            continue
        for volume in pod_of(doc)["volumes"]:
            keys = [item["key"] for item in volume.get("secret", {}).get("items", ())]
            if volume["name"] == "auth":
                assert keys == [{"test": "client"}.get(role, role)]
            elif volume["name"] == "tls":
                assert keys == ["ca.crt"]


def test_no_password_outside_of_secrets():
    docs = chart()
    secret = only(docs, "Secret", "hr-nats-auth")
    roles = ["client", "coordinator", "operator", "system", "worker"]
    assert sorted(secret["data"]) == roles
    assert len(set(secret["data"].values())) == 5
    server = pod_of(only(docs, "StatefulSet", "hr-nats"))["containers"][0]["env"]
    given = {e["valueFrom"]["secretKeyRef"]["key"]: e["name"] for e in server[1:]}
    assert sorted(given) == roles
    config = only(docs, "ConfigMap", "hr-nats")["data"]["nats.conf"]
    for role, name in given.items():
        assert f'"user": "{role}", "password": ${name}\n' in config
    others = yaml.safe_dump([doc for doc in docs if doc["kind"] != "Secret"])
    for value in secret["data"].values():
        assert value not in others


def test_all_traffic_is_denied_but_what_is_needed():
    docs = chart()
    deny = only(docs, "NetworkPolicy", "hr-headrace-default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    pods = [doc for doc in of_kind(docs, *PODS)]
    policies = of_kind(docs, "NetworkPolicy")
    for doc in pods:
        labels = doc["spec"].get("template", doc)["metadata"]["labels"]
        mine = [
            p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        ]
        assert {kind for p in mine for kind in p["spec"]["policyTypes"]} == {"Ingress", "Egress"}
        # Nothing is open to the whole world.
        rules = [
            rule
            for p in mine
            for rule in (*p["spec"].get("ingress", ()), *p["spec"].get("egress", ()))
        ]
        assert all(rule.get("from") or rule.get("to") for rule in rules), doc["metadata"]
    assert of_kind(chart("minimal"), "NetworkPolicy") == []


def test_a_rolling_restart_of_servers_waits_for_their_streams():
    (server,) = pod_of(only(chart(), "StatefulSet", "hr-nats"))["containers"]
    asked = {kind: server[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness")}
    # The first looks at all streams; the second would shut clients out when nobody has caught up.
    assert asked == {"startup": "/healthz", "readiness": "/healthz?js-server-only=true"}
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz?js-enabled-only=true"


# -- what people call ----------------------------------------------------------------------------


def understood(line):
    """Tell whether flowctl has that command with those options; raises click's error if not."""
    command, words = cli, shlex.split(line)[1:]
    # As a child of its group's: a command keeps the help option that its first context asks for.
    context = click.Context(command, **command.context_settings)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
        assert command is not None, line
        context = click.Context(command, parent=context)
    command.make_parser(context).parse_args(words)
    return True


def test_flowctl_has_what_the_chart_calls():
    script = only(chart(), "Pod", "hr-headrace-test")["spec"]["containers"][0]["args"][0]
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    lines = [line.strip() for text in (script, notes) for line in text.splitlines()]
    calls = [line for line in lines if line.startswith("flowctl ")]
    assert len(calls) >= 3
    assert all(understood(line) for line in calls)
    with pytest.raises(click.NoSuchOption):
        understood("flowctl submit hello.yaml --no-such-thing")


def test_the_pod_of_the_test_stays_for_its_logs():
    # `helm test --logs` fails where the pod is gone.
    pod = only(chart(), "Pod", "hr-headrace-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"


# -- coordinators ---------------------------------------------------------------------------------


def variables(doc):
    return {entry["name"]: entry.get("value", "") for entry in pod_of(doc)["containers"][0]["env"]}


def test_coordinators_have_stable_names_and_no_disk():
    docs = chart()
    coordinator = only(docs, "StatefulSet", "hr-headrace-coordinator")
    assert coordinator["spec"]["replicas"] == 3
    assert "volumeClaimTemplates" not in coordinator["spec"]
    assert {"persistentVolumeClaim"}.isdisjoint(
        key for volume in pod_of(coordinator)["volumes"] for key in volume
    )
    env = variables(coordinator)
    names = [f"hr-headrace-coordinator-{number}" for number in range(3)]
    assert env["HEADRACE_CFG_COORDINATOR__PEERS"].split(",") == names
    (own,) = (e for e in pod_of(coordinator)["containers"][0]["env"] if e["name"].endswith("__ID"))
    assert own["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert "--monitor=http://hr-nats:8222" in pod_of(coordinator)["containers"][0]["args"]


@pytest.mark.parametrize("values", CASES, ids=case_id)
def test_processes_accept_their_settings(values, tmp_path):
    for doc in of_kind(chart(*values), "Deployment", "StatefulSet"):
        if doc["metadata"]["labels"]["app.kubernetes.io/component"] == "broker":
            continue
        env = {k: v or "x-0" for k, v in variables(doc).items() if k.startswith("HEADRACE_CFG_")}
        if "HEADRACE_CFG_COORDINATOR__ID" in env:
            env["HEADRACE_CFG_COORDINATOR__ID"] = env["HEADRACE_CFG_COORDINATOR__PEERS"].split(",")[
                0
            ]
        config = load(None, env)
        assert config.metrics.port == 9464
        assert config.broker.servers[0].startswith(("nats://", "tls://"))


def test_disruptions_leave_a_majority():
    docs = chart()
    for name in ("hr-headrace-coordinator", "hr-nats"):
        budget = only(docs, "PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
    # A budget of the only one would hold up every drain of nodes.
    assert of_kind(chart("minimal"), "PodDisruptionBudget") == []


# -- workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", CASES, ids=case_id)
def test_a_worker_has_longer_than_its_longest_step(values):
    for doc in of_kind(chart(*values), "Deployment"):
        pod = pod_of(doc)
        grace_s = int(variables(doc)["HEADRACE_CFG_WORKER__GRACE_MS"]) / 1000
        assert pod["terminationGracePeriodSeconds"] >= grace_s + 20
        stop = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert stop[:2] == ["/bin/sh", "-c"]
        assert "kill -TERM 1" in stop[2]


def test_a_grace_shorter_than_the_longest_step_is_refused():
    with pytest.raises(Refused, match="must be at least 330"):
        chart(options=("--set", "workerDefaults.terminationGracePeriodSeconds=100"))


def test_pools_have_what_they_say_and_the_defaults():
    docs = chart("full")
    gpu = only(docs, "Deployment", "hr-headrace-worker-gpu")
    env = variables(gpu)
    assert env["HEADRACE_CFG_WORKER__NAMESPACE"] == "research"
    assert env["HEADRACE_CFG_WORKER__CAPABILITIES"] == '["gpu"]'
    assert env["HEADRACE_CFG_WORKER__SLOTS"] == "1"
    pod = pod_of(gpu)
    assert pod["nodeSelector"] == {"accelerator": "nvidia"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["containers"][0]["image"] == "registry.example.org/research/gpu-worker:7"
    assert pod["terminationGracePeriodSeconds"] == 15000
    assert "replicas" not in gpu["spec"], "the autoscaler's"
    deploy = only(docs, "Deployment", "hr-headrace-worker-deploy")
    assert deploy["spec"]["replicas"] == 2
    assert variables(deploy)["HEADRACE_CFG_WORKER__SLOTS"] == "16"


def test_pods_spread():
    for doc in of_kind(chart(), "Deployment", "StatefulSet"):
        labels = doc["spec"]["template"]["metadata"]["labels"]
        spread = pod_of(doc)["topologySpreadConstraints"]
        assert "kubernetes.io/hostname" in [rule["topologyKey"] for rule in spread]
        for rule in spread:
            assert rule["labelSelector"]["matchLabels"].items() <= labels.items()


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("coordinator.replicas=2", "coordinator/replicas"),
        ("coordinator.replicaz=3", "replicaz"),
        ("workers[0].name=Big_Pool", "workers/0/name"),
        ("workers[0].slots=0", "workers/0/slots"),
        ("nats.replicas=2", "replicas"),
        ("nats.jetstream.sync=always", "sync"),
        ("workerDefaults.autoscaling.type=magic", "autoscaling/type"),
        ("broker.auth.type=none", "broker/auth/type"),
    ],
)
def test_a_value_that_cannot_be_is_refused(option, says):
    with pytest.raises(Refused, match=says):
        chart("minimal", options=("--set", option))


def test_what_is_missing_is_named():
    with pytest.raises(Refused, match=r"broker\.servers is needed"):
        chart(options=("--set", "nats.enabled=false"))
    with pytest.raises(Refused, match=r"autoscaling\.prometheus is needed"):
        chart(options=("--set", "workerDefaults.autoscaling.type=keda"))


@pytest.mark.parametrize("path", [CHART, CHART / "charts" / "nats"], ids=lambda path: path.name)
def test_every_value_is_documented_and_in_the_schema(path):
    lines = (path / "values.yaml").read_text().splitlines()
    undocumented = []
    for above, line in zip(["", *lines], lines, strict=False):
        key = re.match(r" *([A-Za-z]+):(.*)$", line)
        opens = key and not key[2].strip()
        if key and not above.strip().startswith("#") and not opens:
            undocumented.append(line)
    # Within a block that a comment describes as a whole.
    assert [line for line in undocumented if not line.startswith("  ")] == []


# -- monitoring -----------------------------------------------------------------------------------


def test_dashboards_and_alerts_are_those_of_the_sources():
    docs = chart("full")
    boards = {
        name: text
        for doc in of_kind(docs, "ConfigMap")
        if doc["metadata"]["labels"].get("grafana_dashboard")
        for name, text in doc["data"].items()
    }
    assert boards == {p.name: p.read_text() for p in (DEPLOY / "dashboards").glob("*.json")}
    rules = DEPLOY / "alerts" / "headrace.rules.yaml"
    specs = {doc["metadata"]["name"]: doc["spec"] for doc in of_kind(docs, "PrometheusRule")}
    there = rules.read_text()
    assert specs.pop("hr-headrace") == yaml.safe_load(
        there.replace("docs/runbooks", "https://git.example.org/headrace/docs/runbooks")
    )
    plain = chart(options=("--set", "monitoring.enabled=true"))
    assert only(plain, "PrometheusRule", "hr-headrace")["spec"] == yaml.safe_load(there)
    # Beside the alerts, what each pool of type hpa is scaled by.
    assert list(specs) == ["hr-headrace-pools"]
    (group,) = specs["hr-headrace-pools"]["groups"]
    assert [rule["labels"] for rule in group["rules"]] == [{"pool": "hr-gpu"}]


def test_series_of_a_pool_bear_its_name_and_tenants_stay():
    docs = chart("full")
    (endpoint,) = only(docs, "PodMonitor", "hr-headrace-worker")["spec"]["podMetricsEndpoints"]
    (scrape,) = only(docs, "ServiceMonitor", "hr-headrace-coordinator")["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True
    assert scrape["honorLabels"] is True
    (pool,) = (rule for rule in endpoint["relabelings"] if rule.get("targetLabel") == "pool")
    labels = only(docs, "Deployment", "hr-headrace-worker-linux")["spec"]["template"]["metadata"][
        "labels"
    ]
    found = {
        "__meta_kubernetes_pod_label_" + re.sub(r"[^a-zA-Z0-9_]", "_", name): value
        for name, value in labels.items()
    }
    made = pool["separator"].join(found[name] for name in pool["sourceLabels"])
    query = only(docs, "ScaledObject", "hr-headrace-worker-linux")["spec"]["triggers"][0]
    assert f'pool="{made}"' in query["metadata"]["query"]


def test_a_pool_is_asked_for_by_the_lanes_that_it_can_serve():
    query = only(chart("full"), "ScaledObject", "hr-headrace-worker-linux")["spec"]["triggers"][0]
    pattern = re.search(r'lane=~"((?:[^"\\]|\\.)*)"', query["metadata"]["query"])[1]
    lanes = re.compile(pattern.replace("\\\\", "\\"))
    for served in (["linux"], ["c++17"], ["c++17", "linux"], []):
        assert lanes.fullmatch(lane_label(served)), served
    for other in (["gpu"], ["gpu", "linux"], ["linux2"], ["c++17", "gpu", "linux"], ["ccc17"]):
        assert not lanes.fullmatch(lane_label(other)), other
    assert not lanes.fullmatch(lane_label([], pinned=True))
