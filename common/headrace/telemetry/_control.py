"""Families of the control plane: the election, the registry, who owns which shard."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.telemetry._family import Counter, Gauge, Histogram, Label
from headrace.telemetry._labels import FAST, SHARD

_KIND = Label("kind", ("coordinator", "worker"))
_STATUS = Label("status", ("online", "busy", "draining", "offline"))
_REASON = Label("reason", limit=32)


class ControlMetrics:
    """Ownership of shards, and the replicated view that it is decided by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shards(registry)
        self._election(registry)
        self._process(registry)

    def _shards(self, to: CollectorRegistry) -> None:
        self.shards_expected = Gauge(to, "shards_expected", "Shards of the cluster.")
        self.shards_owned = Gauge(to, "shards_owned", "Shards that this coordinator owns.")
        self.shards_standby = Gauge(
            to, "shards_standby", "Shards that this coordinator keeps warm."
        )
        self.shards_unassigned = Gauge(
            to, "shards_unassigned", "Shards that have no live owner in this coordinator's view."
        )
        self.shards_troubled = Gauge(
            to, "shards_troubled", "Shards here that cannot be served, or not as they should be."
        )
        self.shard_epoch = Gauge(to, "shard_epoch", "Epoch of this coordinator's ownership.", SHARD)
        self.shard_moves = Counter(to, "shard_moves_total", "Changes of a shard's owner seen.")
        self.takeovers = Counter(to, "shard_takeovers_total", "Shards taken.", SHARD)
        self.takeover_seconds = Histogram(
            to, "shard_takeover_seconds", "From beginning to take a shard to ready.", buckets=FAST
        )
        self.takeover_entries = Counter(
            to, "shard_takeover_entries_total", "Entries of logs read to take a shard.", SHARD
        )
        self.shard_rebuilds = Counter(
            to, "shard_rebuilds_total", "States thrown away and read again from the log.", SHARD
        )
        self.standby_lag_seconds = Gauge(
            to,
            "standby_lag_seconds",
            "From the time of the newest entry to its folding by the standby here.",
            SHARD,
        )
        self.standby_position = Gauge(
            to,
            "standby_position",
            "Position of the newest entry folded by the standby here.",
            SHARD,
        )

    def _election(self, to: CollectorRegistry) -> None:
        self.controller = Gauge(to, "controller", "1: this coordinator is the controller.")
        self.controller_known = Gauge(
            to, "controller_known", "1: this coordinator knows a controller."
        )
        self.controller_changes = Counter(
            to, "controller_changes_total", "Changes of controller that were seen."
        )
        self.control_term = Gauge(to, "control_term", "Term of the election.")
        self.control_view = Gauge(
            to, "control_view", "Number of the view: rises while all is well."
        )
        self.control_log_entries = Gauge(
            to, "control_log_entries", "Entries of the control plane's log, which is in memory."
        )
        self.control_ruling = Gauge(
            to, "control_ruling", "1: this coordinator's list of peers is the one that rules."
        )
        self.control_rebuilds = Counter(
            to, "control_rebuilds_total", "Replicas of the control plane replaced.", _REASON
        )
        self.control_refused = Counter(
            to, "control_messages_refused_total", "Messages of the election not taken.", _REASON
        )
        self.nodes = Gauge(to, "nodes", "Nodes in the registry.", _KIND, _STATUS)
        self.coordinators_expected = Gauge(
            to, "coordinators_expected", "Coordinators that are configured."
        )
        self.coordinators_living = Gauge(
            to, "coordinators_living", "Coordinators heard lately, itself included."
        )
        self.coordinator_silence_seconds = Gauge(
            to,
            "coordinator_silence_seconds",
            "Since the last heartbeat of the most silent configured coordinator.",
        )
        self.feature_level = Gauge(
            to, "feature_level", "Level of stored formats that all coordinators know."
        )

    def _process(self, to: CollectorRegistry) -> None:
        self.clock_skew_seconds = Gauge(
            to, "clock_skew_seconds", "This coordinator's clock minus the broker's."
        )
        self.clock_skew_max_seconds = Gauge(
            to, "clock_skew_max_seconds", "Skew at which a coordinator owns no shard."
        )
        self.loop_stall_seconds = Histogram(
            to, "loop_stall_seconds", "How late the event loop ran a callback.", buckets=FAST
        )
