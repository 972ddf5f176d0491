"""Sections, keys, defaults, ranges and the rules between keys. Units stand last in names.

The text under a field is what the reference page prints for it. Ranges are checked by `load`;
rules between keys by `__post_init__`, whoever builds the struct.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from headrace.errors import InvalidConfig

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,128}\Z")]
Count = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Secret = Annotated[str, Meta(extra={"secret": True})]

_SERVER = re.compile(r"(nats|tls|ws|wss)://[^\s/]+/?")
_DATABASE = re.compile(
    r"postgres(?:ql)?://"
    r"(?:(?P<user>[^\s:@/?#]+)(?::(?P<password>[^\s:@/?#]*))?@)?"
    r"(?P<place>(?:\[[0-9A-Fa-f:.]+\]|[^\s:@/?#,\[\]]+)(?::[0-9]{1,5})?"
    r"(?:,(?:\[[0-9A-Fa-f:.]+\]|[^\s:@/?#,\[\]]+)(?::[0-9]{1,5})?)*"
    r"/[^\s:@/?#]+)"
    r"(?:\?(?P<options>[^\s#]+))?"
)
_DATABASE_OPTIONS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "ssl_min_protocol_version",
    "target_session_attrs",
)


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Broker(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach and log in to NATS."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """Addresses of the servers, `nats://host:port` or `tls://host:port`; any of them will do."""
    connect_timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = 2_000
    """Longest wait for one server to accept a connection."""
    request_timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = 5_000
    """Longest wait for an answer of the broker's API."""
    ping_interval_ms: Annotated[int, Meta(ge=500)] = 5_000
    """Time between pings; a host that died silently is noticed after about twice this."""
    reconnect_wait_ms: Annotated[int, Meta(ge=10)] = 50
    """Pause before a server is tried again."""
    user: str = ""
    """User name; empty: no user name and password."""
    password: Secret = ""
    """Password of `user`; prefer `password_file`."""
    password_file: str = ""
    """File whose first line is the password of `user`."""
    token: Secret = ""
    """Token to log in with, instead of a user; prefer `token_file`."""
    token_file: str = ""
    """File whose first line is the token."""
    creds_file: str = ""
    """NATS credentials file (JWT and seed); needs `pip install 'headrace[nkeys]'`."""
    nkey_file: str = ""
    """File with the seed of a NATS nkey; needs `pip install 'headrace[nkeys]'`."""
    tls_ca_file: str = ""
    """PEM file of the authorities to trust; empty: those of the system."""
    tls_cert_file: str = ""
    """PEM file of our certificate, for mutual TLS."""
    tls_key_file: str = ""
    """PEM file of the key of `tls_cert_file`."""
    tls_hostname: str = ""
    """Name to expect in the server's certificate, when it differs from the address."""

    def __post_init__(self) -> None:
        if not self.servers:
            raise InvalidConfig("broker.servers", "at least one address is needed")
        for server in self.servers:
            if not _SERVER.fullmatch(server):
                # Not quoted: an address may hold a password.
                raise InvalidConfig("broker.servers", "each address must be nats://host:port")
        if self.password and self.password_file:
            raise InvalidConfig("broker.password_file", "give it or broker.password, not both")
        if (self.password or self.password_file) and not self.user:
            raise InvalidConfig("broker.user", "a password without a user name")
        if self.token and self.token_file:
            raise InvalidConfig("broker.token_file", "give it or broker.token, not both")
        ways = {
            "broker.user": self.user,
            "broker.token": self.token or self.token_file,
            "broker.creds_file": self.creds_file,
            "broker.nkey_file": self.nkey_file,
        }
        first, *more = [key for key, value in ways.items() if value] or [""]
        if more:
            raise InvalidConfig(more[0], f"give it or {first}, not both")
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise InvalidConfig(
                "broker.tls_cert_file", "broker.tls_cert_file and broker.tls_key_file go together"
            )

    def __repr__(self) -> str:
        return f"Broker(servers={len(self.servers)}, user={self.user!r})"


class Coordinator(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica of the control plane: who it is, its shards, snapshots and the archive."""

    id: Name = "coordinator-0"
    """Name of this coordinator, the same after each restart, different from all others'."""
    peers: tuple[Name, ...] = ()
    """Names of all coordinators, this one too; empty: it is the only one."""
    data_dir: str = "./.headrace"
    """Folder of what is kept on this machine: the SQLite archive. A cluster needs none."""
    replicas: Literal[1, 3, 5] = 1
    """Copies of each stream and bucket in the NATS cluster."""
    shards_journal: Annotated[int, Meta(ge=1, le=1024)] = 8
    """Shards of durability level journal. The first, shard 0, is the system shard too."""
    shards_snapshot: Annotated[int, Meta(ge=0, le=1024)] = 1
    """Shards of durability level snapshot."""
    shards_memory: Annotated[int, Meta(ge=0, le=1024)] = 1
    """Shards of durability level memory."""
    snapshot_events: Annotated[int, Meta(ge=100)] = 100_000
    """A snapshot of a shard is taken after this many events."""
    snapshot_minutes: Annotated[float, Meta(gt=0, le=10_080)] = 10.0
    """A snapshot of a shard with new events is taken after this many minutes at the latest."""
    clock_skew_ms_max: Annotated[int, Meta(ge=100)] = 5_000
    """A coordinator whose clock is further away from the broker's owns no shard."""
    archive: Literal["sqlite", "jetstream", "postgres"] = "jetstream"
    """Where closed runs go. `sqlite` is for one coordinator only; `postgres`: see `[postgres]`."""
    archive_path: str = ""
    """File of the SQLite archive; empty: `archive.db` below `data_dir`."""
    retention_days: Annotated[float, Meta(ge=0, le=36_500)] = 30.0
    """Closed runs are deleted after this many days; 0: never."""
    blob_margin_minutes: Annotated[float, Meta(ge=70, le=525_600)] = 1_440.0
    """A large value in the object store is kept this long although no run is known that it belongs
    to: it is stored before the request or result that names it, which may be sent for an hour."""
    incoming_days: Annotated[float, Meta(gt=0, le=365)] = 7.0
    """Events from outside are kept for this many days: those that were read, for looking at, and
    those that no coordinator has read in this time."""
    evidence_key_file: str = ""
    """PEM file of an Ed25519 key that signs the histories of ended runs and evidence bundles, the
    same for all coordinators; empty: nothing is signed. It needs
    `pip install 'headrace[evidence]'`."""

    def __post_init__(self) -> None:
        if len(set(self.peers)) != len(self.peers):
            raise InvalidConfig("coordinator.peers", "a name stands there twice")
        if self.peers and self.id not in self.peers:
            raise InvalidConfig(
                "coordinator.peers", f"must hold all coordinators, {self.id!r} (our id) too"
            )
        if self.archive == "sqlite" and len(self.peers) > 1:
            raise InvalidConfig(
                "coordinator.archive",
                f"a SQLite archive is one machine's file and {len(self.peers)} coordinators are "
                'configured: use archive = "jetstream" or "postgres", or one coordinator',
            )
        if self.archive != "sqlite" and self.archive_path:
            raise InvalidConfig(
                "coordinator.archive_path", f"means nothing with archive = {self.archive!r}"
            )


class Postgres(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The database of `coordinator.archive = "postgres"`; needs
    `pip install 'headrace[postgres]'`."""

    url: Secret = ""
    """`postgresql://user@host:5432/database?sslmode=verify-full&sslrootcert=/path/ca.pem`; several
    servers of one cluster: `host1,host2` with `target_session_attrs=read-write`."""
    password: Secret = ""
    """Password of the user in `url`; prefer `password_file`."""
    password_file: str = ""
    """File whose first line is the password; read anew for each connection, so it may change."""
    schema: Annotated[str, Meta(pattern=r"\A[a-z_][a-z0-9_]{0,62}\Z")] = "headrace"
    """Schema of the tables; clusters that share a database need one each."""
    migrate: bool = True
    """Bring the tables up to date at the start (`pre` migrations); else by `flowctl cluster
    migrate` only, and a coordinator that misses one does not archive."""
    connections_max: Annotated[int, Meta(ge=1, le=100)] = 8
    """Connections of one coordinator; one stays open, the others come and go."""
    connect_timeout_ms: Annotated[int, Meta(ge=100, le=60_000)] = 5_000
    """Longest wait for a connection: a new one, or a free one."""
    statement_timeout_ms: Annotated[int, Meta(ge=100, le=600_000)] = 30_000
    """Longest wait for the database to do one statement."""

    def __post_init__(self) -> None:
        if not self.url:
            for key in ("password", "password_file"):
                if getattr(self, key):
                    raise InvalidConfig(f"postgres.{key}", "means nothing without postgres.url")
            return
        found = _DATABASE.fullmatch(self.url)
        if found is None:
            # Not quoted: it may hold a password.
            raise InvalidConfig(
                "postgres.url",
                "must be postgresql://user@host:port/database, with options as ?sslmode=verify-full"
                " behind it (special characters in user and password as %xx)",
            )
        for option in (found["options"] or "").split("&"):
            name, _, value = option.partition("=")
            if option and (name not in _DATABASE_OPTIONS or not value):
                raise InvalidConfig(
                    "postgres.url", f"options are {', '.join(_DATABASE_OPTIONS)}, each with a value"
                )
        ways = {
            "postgres.password": self.password,
            "postgres.password_file": self.password_file,
            "a password in postgres.url": found["password"],
        }
        first, *more = [key for key, value in ways.items() if value] or [""]
        if more:
            raise InvalidConfig(first, f"give it or {more[0]}, not both")

    @property
    def place(self) -> str:
        """Return servers and database as they may be shown: no user, no password, no options."""
        found = _DATABASE.fullmatch(self.url)
        return found["place"] if found else ""

    def __repr__(self) -> str:
        return f"Postgres(place={self.place!r}, schema={self.schema!r})"


class Limits(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard limits. What passes one is refused by a named error before anything changes."""

    payload_inline_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024)] = 32 * 1024
    """Inputs, outputs and signal payloads above this size go to the object store."""
    payload_bytes_max: Count = 128 * 1024 * 1024
    """Largest input, output or signal payload at all."""
    inbox_bytes_max: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    """Requests and results waiting in a coordinator; above it the answer is `busy`."""
    backlog_ms_max: Whole = 250
    """Time that a step may wait for a coordinator while workers are idle, about. If more wait than
    it hands out in that time, new runs are answered `busy`, but for a trickle; 0: all are taken."""
    outbox_bytes_max: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    """Results and log lines waiting in a worker; above it the worker takes no more tasks."""
    parked_bytes_max: Whole = 128 * 1024 * 1024
    """Memory, about, of the workflow functions that wait and that a worker keeps, so that they need
    not be replayed; at most 1,000 of them, the latest; 0: none."""
    append_bytes_max: Annotated[int, Meta(ge=16 * 1024, le=8 * 1024 * 1024)] = 512 * 1024
    """Largest single append to a log; what is larger is split. Below NATS's `max_payload`."""
    log_bytes_max: Whole = 0
    """Largest shard log; submits are refused at 80 % of it; 0: as much as the broker gives."""
    incoming_bytes_max: Annotated[int, Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    """Events from outside in their stream; full of unread ones, it refuses further ones."""
    runs_max: Count = 2_000_000
    """Live runs of one shard; above it submits are answered `busy`."""
    plan_bytes_max: Count = 512 * 1024
    """Largest compiled workflow."""
    run_steps_max: Count = 100_000
    """Steps of one run, those that it gained while it ran too; jobs, groups and loops count."""
    run_events_max: Count = 1_000_000
    """Events of one run, about; a run that has more fails."""
    run_signals_max: Count = 1_000
    """Signals of one run that nobody has taken yet."""
    labels_max: Whole = 64
    """Labels of one run."""
    label_bytes_max: Count = 256
    """Longest name or value of a label, in UTF-8."""
    page_runs_max: Annotated[int, Meta(ge=1, le=1_000)] = 1_000
    """Most runs in one answer to a listing; clients ask for the next page by themselves."""
    log_line_bytes_max: Annotated[int, Meta(ge=80)] = 64 * 1024
    """Longest line of a step's output; the rest of a longer one is cut."""

    def __post_init__(self) -> None:
        if self.payload_inline_bytes > self.payload_bytes_max:
            raise InvalidConfig(
                "limits.payload_inline_bytes",
                f"{self.payload_inline_bytes} is over limits.payload_bytes_max "
                f"({self.payload_bytes_max})",
            )


class Dispatch(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Handing steps to workers, and noticing that one is lost. The same for all processes."""

    lease_ms: Annotated[int, Meta(ge=300)] = 3_000
    """Time after a worker's last heartbeat at which its steps go to another."""
    heartbeat_ms: Annotated[int, Meta(ge=50, le=1_000)] = 1_000
    """Time between heartbeats; at most a third of `lease_ms`, so that two may be lost."""
    window_extra: Annotated[int, Meta(ge=0, le=1_000)] = 4
    """Steps in flight in a lane beyond the free slots of its workers."""
    batch_tasks_max: Annotated[int, Meta(ge=1, le=1_000)] = 100
    """Steps in one task message."""
    batch_bytes_max: Annotated[int, Meta(ge=1024, le=512 * 1024)] = 16 * 1024
    """Size of a task message that is not exceeded by adding a step."""
    batch_work_ms: Whole = 50
    """Estimated work in one task message that is not exceeded by adding a step."""
    lanes_max: Count = 256
    """Lanes of one namespace (distinct sets of needed capabilities)."""

    def __post_init__(self) -> None:
        if self.heartbeat_ms * 3 > self.lease_ms:
            raise InvalidConfig(
                "dispatch.heartbeat_ms",
                f"{self.heartbeat_ms} is over a third of dispatch.lease_ms ({self.lease_ms}); "
                "two heartbeats must be allowed to get lost",
            )


class Worker(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process that runs steps."""

    id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{0,128}\Z")] = ""
    """Name of this worker, different from all others'; empty: made from the host's name."""
    namespace: Name = "default"
    """Tenant whose steps it runs."""
    capabilities: tuple[str, ...] = ("default",)
    """Labels that it offers; a step goes to a worker that offers all that it needs."""
    slots: Annotated[int, Meta(ge=1, le=100_000)] = 16
    """Steps that it runs at the same time."""
    data_dir: str = "./.headrace"
    """Folder of the jobs' workspaces."""
    grace_ms: Whole = 25_000
    """Time to finish running steps after SIGTERM; below the 30 s that Kubernetes waits."""
    kill_ms: Annotated[int, Meta(ge=1)] = 5_000
    """Time between a cancelled step's SIGTERM and SIGKILL."""
    lock_wait_ms: Whole = 15_000
    """Time for another worker that still has the data folder, one that is about to stop, to end."""
    apps: tuple[str, ...] = ()
    """Applications to serve, `package.module:name`."""
    plugins: str = ""
    """Folder of Python files with handlers; watched, so that they come and go without a restart."""
    secrets_path: str = ""
    """Folder with one file for each secret (a mounted Kubernetes Secret, say), or a file of
    `NAME=value` lines; beside the variables `HEADRACE_SECRET_<NAME>` of the environment."""
    vars_path: str = ""
    """The same for variables (`vars`), beside `HEADRACE_VAR_<NAME>`."""

    def __post_init__(self) -> None:
        for app in self.apps:
            module, colon, name = app.partition(":")
            if not (module and colon and name):
                raise InvalidConfig("worker.apps", f"{app!r} is not package.module:name")
        for capability in self.capabilities:
            if not capability.strip():
                raise InvalidConfig("worker.capabilities", "an empty label")


class Metrics(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP port with `/metrics`, `/healthz` and `/readyz`."""

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` in a container."""
    port: Port = 0
    """Port to listen on; 0: off."""


class Log(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process's own log, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages to write."""
    format: Literal["text", "json"] = "text"
    """`text` for people, `json` (one object a line) for machines."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything; hand each part only the section it needs."""

    broker: Broker = Broker()
    coordinator: Coordinator = Coordinator()
    postgres: Postgres = Postgres()
    limits: Limits = Limits()
    dispatch: Dispatch = Dispatch()
    worker: Worker = Worker()
    metrics: Metrics = Metrics()
    log: Log = Log()

    def __post_init__(self) -> None:
        if self.coordinator.archive == "postgres" and not self.postgres.url:
            raise InvalidConfig("postgres.url", 'coordinator.archive = "postgres" needs it')
