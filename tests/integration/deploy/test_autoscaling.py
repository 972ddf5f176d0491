"""What the chart's autoscalers ask for, computed by a real Prometheus from a real cluster."""

import asyncio
import contextlib
import math
import re
import time

import pytest
import yaml

from headrace.client import Submission
from headrace.language import compile_workflow
from support.cluster import Cluster, running
from support.deploykit import chart, only
from support.kube.autoscaler import adapter_rules
from support.prometheus import Prometheus, needs_prometheus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180), needs_prometheus]

STEPS = 10_000
LONG = """\
name: long
jobs:
  main:
    runs-on: linux
    steps: [{run: sleep 300}]
"""
OTHER = LONG.replace("linux", "gpu")
POOL = (
    *("--set", "workers[0].name=default", "--set", "workers[0].capabilities={default,linux}"),
    *("--set", "workers[0].slots=1", "--set", "workers[0].autoscaling.minReplicas=0"),
)
KEDA = (
    *POOL,
    *("--set", "workers[0].autoscaling.type=keda"),
    *("--set", "autoscaling.prometheus=http://prometheus:9090"),
)
HPA = (
    *POOL,
    *("--set", "workers[0].autoscaling.type=hpa", "--set", "monitoring.enabled=true"),
)


def wanted(scaled, value):
    """Return how many workers KEDA and its autoscaler ask for, from the value of the query."""
    spec, trigger = scaled["spec"], scaled["spec"]["triggers"][0]["metadata"]
    if value <= float(trigger["activationThreshold"]):
        return spec["minReplicaCount"]
    least = max(1, spec["minReplicaCount"])
    return min(max(math.ceil(value / float(trigger["threshold"])), least), spec["maxReplicaCount"])


def adapter_query(metric):
    """Return what the adapter asks Prometheus for an external metric, by the rule in the docs.

    Its templates as its documentation has them: the series that the rule finds, and the selector
    of the autoscaler as matchers.
    """
    (rule,) = adapter_rules()
    assert rule["name"]["as"] == metric["metric"]["name"]
    # Else it would ask for a label `namespace` that the series does not have.
    assert rule["resources"] == {"namespaced": False}
    labels = metric["metric"]["selector"]["matchLabels"]
    series = re.fullmatch(r'\{__name__="(\w+)",pool!=""\}', rule["seriesQuery"])[1]
    matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
    query = rule["metricsQuery"].replace("<<.Series>>", series)
    return query.replace("<<.LabelMatchers>>", matchers)


def replicas(autoscaler, value):
    """Return how many workers Kubernetes' autoscaler asks for: an average value of one metric."""
    spec = autoscaler["spec"]
    (metric,) = spec["metrics"]
    asked = math.ceil(value / float(metric["external"]["target"]["averageValue"]))
    return min(max(asked, spec["minReplicas"]), spec["maxReplicas"])


async def test_ready_steps_ask_for_workers_and_idle_ones_go(tmp_path):
    scaled = only(chart(options=KEDA), "ScaledObject", "hr-headrace-worker-default")
    docs = chart(options=HPA)
    autoscaler = only(docs, "HorizontalPodAutoscaler", "hr-headrace-worker-default")
    recorded = tmp_path / "pools.yaml"
    recorded.write_text(yaml.safe_dump(only(docs, "PrometheusRule", "hr-headrace-pools")["spec"]))
    adapter = adapter_query(autoscaler["spec"]["metrics"][0]["external"])
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert scaled["spec"]["triggers"][0]["metadata"]["threshold"] == "1"
    async with running(Cluster(tmp_path, workers=1, slots=1, shards=1)) as cluster:
        targets = {"coordinator": [cluster.ports["c0"]], "worker": [cluster.ports["w0"]]}
        labels = {"worker": {"pool": "hr-default"}}
        server = Prometheus(tmp_path / "prometheus", targets, labels=labels, rules=[recorded])
        with contextlib.closing(server):
            await asyncio.to_thread(server.start)
            async with await cluster.client() as client:

                async def settles(low, high, *, what=query):
                    """Return the value once it is in between."""
                    seen = []
                    deadline = time.monotonic() + 60
                    while time.monotonic() < deadline:
                        # Nothing: the rule was not evaluated yet.
                        for found in await asyncio.to_thread(server.query, what):
                            seen.append(float(found["value"][1]))
                            if low <= seen[-1] <= high:
                                return seen[-1]
                        await asyncio.sleep(0.2)
                    raise AssertionError(f"never from {low} to {high}: {seen[-5:]}")

                # Idle: none, and what others have to do is not ours.
                plan = compile_workflow(OTHER)
                await client.submit_many([Submission(plan=plan, input={})] * 3)
                assert wanted(scaled, await settles(0, 0)) == 0
                assert replicas(autoscaler, await settles(0, 0, what=adapter)) == 1

                # 10,000 steps on one slot: as many as are allowed.
                plan = compile_workflow(LONG)
                for _ in range(0, STEPS, 1_000):
                    views = await client.submit_many([Submission(plan=plan, input={})] * 1_000)
                    assert all(view.id for view in views)
                # A few are on their way to the worker, and count as neither.
                value = await settles(STEPS - 10, STEPS)
                assert wanted(scaled, value) == scaled["spec"]["maxReplicaCount"] == 10
                assert math.ceil(value) >= STEPS - 10
                value = await settles(STEPS - 10, STEPS, what=adapter)
                assert replicas(autoscaler, value) == autoscaler["spec"]["maxReplicas"] == 10

                # No worker at all: they still ask, so the pool comes back from zero.
                cluster.workers[0].kill()
                assert wanted(scaled, await settles(STEPS - 10, STEPS)) == 10
