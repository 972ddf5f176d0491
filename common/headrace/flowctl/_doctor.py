"""What is to be said of a cluster: findings from facts, each with what to do. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from headrace.messages import ServerInfo

NATS_VERSION_MIN: Final = (2, 11)
SKEW_MS_MAX: Final = 500
FULL_WARN, FULL_FAIL = 0.8, 0.95
SNAPSHOT_AGE_S_MAX: Final = 3_600
SNAPSHOT_ENTRIES: Final = 10_000
"""A log of fewer entries is read at once: it needs no snapshot."""

State = Literal["ok", "warn", "fail", "skip"]


class Finding(NamedTuple):
    """What one check has found."""

    check: str
    state: State
    text: str
    todo: str = ""


class Facts(msgspec.Struct, kw_only=True):
    """What was asked; None: it could not be."""

    server: str
    found: str = ""
    """How the server was found."""
    login: bool = False
    nats_version: str = ""
    round_trip_ms: float = 0.0
    info: ServerInfo | None = None
    trouble: str = ""
    """Why there is no `info`."""
    streams: dict[str, dict[str, Any]] | None = None
    """Name -> answer of the broker; None: the login does not reach them."""
    account: dict[str, Any] = {}
    now_ms: int = 0
    broker_ms: int = 0
    """The broker's clock; 0: not known."""
    newest_snapshot_ms: int = 0
    sync: str = "unknown"
    """As `--monitor` shows it: always, periodic."""


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield what all checks find, in the order in which one mends a cluster."""
    yield from _broker(facts)
    if facts.info is None:
        todo = "are coordinators running, and connected to this broker? look at their logs"
        yield Finding("coordinators", "fail", facts.trouble or "no answer", todo)
    else:
        yield from _coordinators(facts.info)
        yield from _durability(facts, facts.info)
        yield from _shards(facts.info)
        yield from _workers(facts.info)
        yield from _lanes(facts.info)
    yield from _clock(facts)
    yield from _streams(facts)


def _broker(facts: Facts) -> Iterator[Finding]:
    text = f"{facts.server} answers in {facts.round_trip_ms:.1f} ms"
    yield Finding("broker", "ok", text)
    version = tuple(int(part) for part in facts.nats_version.split(".")[:2] if part.isdigit())
    if version < NATS_VERSION_MIN:
        wanted = ".".join(map(str, NATS_VERSION_MIN))
        yield Finding("nats version", "warn", f"{facts.nats_version}", f"use {wanted} or newer")
    else:
        yield Finding("nats version", "ok", facts.nats_version)
    local = any(host in facts.server for host in ("127.0.0.1", "localhost", "[::1]"))
    if facts.login:
        yield Finding("credentials", "ok", "a login is used")
    elif local:
        yield Finding("credentials", "ok", "no login; the broker is on this machine")
    else:
        todo = "`flowctl cluster credentials` makes logins; docs/security.md"
        yield Finding("credentials", "warn", "whoever reaches the broker may do everything", todo)
    if not local and "tls://" not in facts.server:
        todo = "give the servers certificates, and use tls:// addresses"
        yield Finding("tls", "warn", "the connection is not encrypted by its address", todo)


def _coordinators(info: ServerInfo) -> Iterator[Finding]:
    gone = [str(c.get("id")) for c in info.coordinators if c.get("status") == "Offline"]
    if gone:
        todo = "start them, or look at their logs"
        yield Finding("coordinators", "fail", f"offline: {', '.join(gone)}", todo)
    elif not info.controller:
        todo = "a majority of coordinator.peers must be up and connected"
        yield Finding("coordinators", "fail", "no controller is elected", todo)
    else:
        text = f"{len(info.coordinators)}, controller {info.controller}"
        yield Finding("coordinators", "ok", text)
    releases = {str(c.get("release", "")) for c in info.coordinators}
    releases |= {w.release for w in info.workers if w.state != "Offline"}
    releases.discard("")
    if len(releases) > 1:
        todo = "finish the upgrade: coordinators first, then workers"
        yield Finding("releases", "warn", f"several: {', '.join(sorted(releases))}", todo)
    else:
        yield Finding("releases", "ok", ", ".join(releases) or info.release)
    for coordinator in info.coordinators:
        skew_ms = int(coordinator.get("skew_ms", 0))
        if abs(skew_ms) > SKEW_MS_MAX:
            text = f"coordinator {coordinator.get('id')} is {skew_ms} ms off the broker"
            yield Finding("clock", "warn", text, "synchronise the clock of its host (NTP)")


def _durability(facts: Facts, info: ServerInfo) -> Iterator[Finding]:
    if facts.sync == "always" or (facts.sync == "unknown" and info.broker.get("synced")):
        yield Finding("fsync", "ok", "the broker acknowledges what is on disk")
        return
    text = "it is not known that the broker acknowledges only what is on disk"
    if facts.sync == "periodic":
        text = "the broker acknowledges before data is on disk: a power loss loses it"
    todo = "set `sync_interval: always` in jetstream of every server; give --monitor to check it"
    yield Finding("fsync", "fail" if facts.sync == "periodic" else "warn", text, todo)


def _shards(info: ServerInfo) -> Iterator[Finding]:
    bad = False
    for shard in info.shards:
        if not shard.owner or not shard.epoch:
            bad = True
            todo = "wait a few seconds; then: are coordinators online, and the log's stream well?"
            yield Finding("shards", "fail", f"shard {shard.shard} has no owner", todo)
        elif shard.standby_hash and shard.state_hash and shard.standby_hash != shard.state_hash:
            bad = True
            text = f"shard {shard.shard}: owner and standby differ"
            yield Finding("shards", "fail", text, "`flowctl cluster check`; keep the logs, report")
        elif len(info.coordinators) > 1 and shard.level == "journal" and not shard.standby:
            bad = True
            text = f"shard {shard.shard} has no standby: a takeover reads its log first"
            yield Finding("shards", "warn", text, "is every coordinator online?")
    if not bad:
        yield Finding("shards", "ok", f"{len(info.shards)}, each with an owner")


def _workers(info: ServerInfo) -> Iterator[Finding]:
    online = [worker for worker in info.workers if worker.state in ("Online", "Busy")]
    if not online:
        todo = "start one: `flowctl worker --server …`"
        yield Finding("workers", "warn", "none is online: no step runs", todo)
    else:
        slots = sum(worker.slots for worker in online)
        yield Finding("workers", "ok", f"{len(online)} online, {slots} slots")
    for worker in online:
        for problem in worker.problems:
            yield Finding("workers", "warn", f"{worker.id}: {problem}", "mend it there")


def _lanes(info: ServerInfo) -> Iterator[Finding]:
    missing = sorted({label for shard in info.shards for label in shard.missing})
    for label in missing:
        todo = f"start a worker that offers it: `flowctl worker -c {label}`"
        text = f"steps wait for {label}, which no worker offers"
        yield Finding("lanes", "warn", text, todo)
    if not missing:
        yield Finding("lanes", "ok", "no step waits for a label that nobody offers")
    for warning in info.warnings:
        if "sync" not in warning:
            yield Finding("warnings", "warn", warning, "see docs/operations.md")


def _clock(facts: Facts) -> Iterator[Finding]:
    if not facts.broker_ms:
        return
    off_ms = facts.now_ms - facts.broker_ms
    if abs(off_ms) > SKEW_MS_MAX + facts.round_trip_ms:
        text = f"this machine is {off_ms} ms off the broker"
        yield Finding("clock", "warn", text, "synchronise the clocks (NTP)")
    else:
        yield Finding("clock", "ok", "this machine and the broker agree")


def _streams(facts: Facts) -> Iterator[Finding]:
    if facts.streams is None:
        todo = "use an operator's login to have streams checked"
        yield Finding("streams", "skip", "this login does not reach them", todo)
        return
    coordinators = len(facts.info.coordinators) if facts.info else 1
    bad = False
    for name, stream in sorted(facts.streams.items()):
        for state, text, todo in _stream(name, stream, coordinators):
            bad = True
            yield Finding("streams", state, f"{name}: {text}", todo)
    if not bad:
        yield Finding("streams", "ok", f"{len(facts.streams)}, set as they should be")
    yield from _space(facts)
    entries = sum(_figure(s, "state", "messages") for n, s in facts.streams.items() if _is_log(n))
    age_s = (facts.now_ms - facts.newest_snapshot_ms) / 1_000 if facts.newest_snapshot_ms else 0
    if entries > SNAPSHOT_ENTRIES and (not facts.newest_snapshot_ms or age_s > SNAPSHOT_AGE_S_MAX):
        text = f"the newest is {age_s / 3_600:.1f} h old" if age_s else "there is none"
        todo = "a takeover reads all that: look for `snapshot` in coordinators' logs"
        yield Finding("snapshots", "warn", f"{text}, with {entries} log entries", todo)
    elif facts.newest_snapshot_ms:
        yield Finding("snapshots", "ok", f"the newest is {age_s / 60:.0f} min old")
    else:
        yield Finding("snapshots", "ok", "none is needed yet")


def _stream(
    name: str, stream: Mapping[str, Any], coordinators: int
) -> Iterator[tuple[State, str, str]]:
    config = stream.get("config", {})
    if _is_log(name):
        wanted = {"storage": "file", "retention": "limits", "discard": "new"}
        for key, value in wanted.items():
            if config.get(key) != value:
                todo = f"nothing but coordinators should change it; set it back to {value}"
                yield "fail", f"{key} is {config.get(key)}", todo
        if config.get("max_age") or config.get("max_msgs", -1) > 0:
            yield "fail", "it has a limit that drops entries", "take max_age and max_msgs away"
    replicas = config.get("num_replicas", 1)
    if coordinators > 1 and replicas < 3:
        todo = "three NATS servers, and coordinator.replicas = 3"
        yield "warn", f"{replicas} replica: it is lost with its server's disk", todo
    cluster = stream.get("cluster") or {}
    for peer in cluster.get("replicas") or []:
        if peer.get("offline") or not peer.get("current", True):
            word = "offline" if peer.get("offline") else f"{peer.get('lag', 0)} behind"
            yield "warn", f"its replica on {peer.get('name')} is {word}", "look at that server"
    if replicas > 1 and not cluster.get("leader"):
        yield "fail", "it has no leader", "a majority of its servers must be up"
    most, used = config.get("max_bytes", -1), _figure(stream, "state", "bytes")
    if most > 0 and used > FULL_WARN * most:
        todo = "raise its limit, see docs/configuration.md (limits)"
        yield ("fail" if used > FULL_FAIL * most else "warn"), f"{used / most:.0%} full", todo


def _space(facts: Facts) -> Iterator[Finding]:
    limits = facts.account.get("limits") or {}
    most, used = limits.get("max_storage", -1), facts.account.get("storage", 0)
    if most is None or most <= 0:
        yield Finding("space", "ok", f"{used:,} bytes on disk; the account has no limit")
        return
    part = used / most
    state: State = "fail" if part > FULL_FAIL else "warn" if part > FULL_WARN else "ok"
    todo = "" if state == "ok" else "raise the account's max_file, or shorten retention"
    yield Finding("space", state, f"{part:.0%} of {most:,} bytes", todo)


def _is_log(name: str) -> bool:
    return name.startswith("HEADRACE_LOG_")


def _figure(stream: Mapping[str, Any], part: str, name: str) -> int:
    return int((stream.get(part) or {}).get(name, 0))
