"""Findings from facts, fault by fault."""

import pytest

from headrace.flowctl._doctor import Facts, findings
from headrace.messages import ServerInfo, ShardInfo, WorkerView

PEER = {"name": "n2", "offline": True}
LOG = {"storage": "file", "retention": "limits", "discard": "new", "num_replicas": 3}


def worker(**changes):
    fields = {"id": "w", "incarnation": "1", "namespace": "default", "state": "Online"}
    return WorkerView(**{**fields, "capabilities": ["linux"], "release": "1", **changes})


def info(**changes):
    coordinators = [{"id": f"c{n}", "status": "Online", "release": "1"} for n in range(3)]
    shards = [
        ShardInfo(shard=0, owner="c0", standby="c1", epoch=1, state_hash="a", standby_hash="a")
    ]
    fields = {"coordinators": coordinators, "controller": "c0", "shards": shards}
    fields |= {"workers": [worker()], "broker": {"synced": True}}
    return ServerInfo(version=1, release="1", **{**fields, **changes})


def facts(**changes):
    streams = {"HEADRACE_LOG_0": {"config": LOG, "state": {}, "cluster": {"leader": "n1"}}}
    fields = {"server": "tls://nats:4222", "login": True, "nats_version": "2.12.1", "info": info()}
    return Facts(**{**fields, "streams": streams, "now_ms": 10_000_000, **changes})


def stream(cluster=None, state=None, **config):
    made = {"config": {**LOG, **config}, "state": state or {}}
    return {"HEADRACE_LOG_0": made | {"cluster": cluster or {"leader": "n1"}}}


def test_nothing_is_wrong():
    assert {finding.state for finding in findings(facts())} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "check", "state", "said"),
    [
        ({"nats_version": "2.9.3"}, "nats version", "warn", "2.9.3"),
        ({"login": False}, "credentials", "warn", "everything"),
        ({"server": "nats://nats:4222"}, "tls", "warn", "not encrypted"),
        ({"info": None, "trouble": "no answer"}, "coordinators", "fail", "no answer"),
        ({"info": info(controller="")}, "coordinators", "fail", "no controller"),
        ({"info": info(coordinators=[{"id": "c9", "status": "Offline"}])},
         "coordinators", "fail", "offline: c9"),
        ({"info": info(workers=[worker(release="2")])}, "releases", "warn", "1, 2"),
        ({"info": info(coordinators=[{"id": "c1", "skew_ms": -900}])}, "clock", "warn", "-900 ms"),
        ({"info": info(broker={})}, "fsync", "warn", "not known"),
        ({"sync": "periodic"}, "fsync", "fail", "power loss"),
        ({"info": info(shards=[ShardInfo(shard=4)])}, "shards", "fail", "shard 4 has no owner"),
        ({"info": info(shards=[ShardInfo(shard=4, owner="a", epoch=1)])},
         "shards", "warn", "no standby"),
        ({"info": info(shards=[ShardInfo(shard=4, owner="a", epoch=1, standby="b",
                                         state_hash="1", standby_hash="2")])},
         "shards", "fail", "differ"),
        ({"info": info(workers=[])}, "workers", "warn", "none is online"),
        ({"info": info(workers=[worker(problems=["no disk"])])}, "workers", "warn", "no disk"),
        ({"info": info(shards=[ShardInfo(shard=0, owner="a", standby="b", epoch=1,
                                         missing=["gpu"])])}, "lanes", "warn", "gpu"),
        ({"info": info(warnings=["shard 1: full"])}, "warnings", "warn", "shard 1: full"),
        ({"broker_ms": 9_990_000}, "clock", "warn", "10000 ms off"),
        ({"streams": None}, "streams", "skip", "does not reach"),
        ({"streams": stream(storage="memory")}, "streams", "fail", "storage is memory"),
        ({"streams": stream(max_age=1)}, "streams", "fail", "drops entries"),
        ({"streams": stream(num_replicas=1)}, "streams", "warn", "1 replica"),
        ({"streams": stream(cluster={"replicas": []})}, "streams", "fail", "no leader"),
        ({"streams": stream(cluster={"leader": "a", "replicas": [PEER]})},
         "streams", "warn", "n2 is offline"),
        ({"streams": stream(max_bytes=100, state={"bytes": 96})}, "streams", "fail", "96% full"),
        ({"streams": stream(state={"messages": 20_000})}, "snapshots", "warn", "there is none"),
        ({"streams": stream(state={"messages": 20_000}), "newest_snapshot_ms": 1_000},
         "snapshots", "warn", "2.8 h old"),
        ({"account": {"storage": 90, "limits": {"max_storage": 100}}}, "space", "warn", "90%"),
    ],
)  # fmt: skip
def test_a_fault_is_found_and_says_what_to_do(changes, check, state, said):
    found = [f for f in findings(facts(**changes)) if f.state != "ok"]
    assert [(f.check, f.state) for f in found] == [(check, state)]
    assert said in found[0].text
    assert found[0].todo
