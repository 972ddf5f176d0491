"""One life of a Raft replica. The only module that touches pysyncobj (0.3.17, pinned).

What is relied upon, and what is kept away from it:

- No journal, no dump file: the log lives in memory and is compacted in memory. Its snapshot holds
  the encoded view alone, and leaves this process transcoded (`wire.InstallView`).
- One replicated method, `commit(payload)`. Method ids are alphabetical: never add a second one.
  An exception in it would wedge the replica for ever, so it catches every one.
- `autoTick=False`: the owner calls `tick`. After a stall of the loop ticks are held back, so that
  the messages that wait are read before a leader is judged dead.
- A fresh replica neither votes nor stands for 2 x the longest election timeout, since it has
  forgotten its vote: until then no peer counts as connected, so pysyncobj starts no election. A
  replica without peers has nobody to betray and does not wait.
- Followers' answers are corrected before a leader sees them (`progress`).
- `failed` tells when this life is beyond help (the rules are in `Replica.failed`); the owner then
  closes it and makes a new one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pysyncobj.syncobj as _engine
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from headrace.coordinator.control.progress import Progress
from headrace.coordinator.control.transcode import to_engine, to_wire, view_to_wire
from headrace.coordinator.control.transport import NatsTransport, Publish
from headrace.coordinator.control.wire import (
    AppendEntries,
    InstallView,
    NextIndex,
    RaftMessage,
)
from headrace.errors import LimitExceeded

log = logging.getLogger(__name__)

# Each SyncObj would open a pipe to wake its own poller, and never close it. We wake it by a tick.
_engine.PIPE_NOTIFIER_ENABLED = False

PAYLOAD_BYTES_MAX = 240 * 1024
"""Of one commit. pysyncobj pickles bytes as text (up to twice the size) and sends an entry above
its batch size in pieces of a pickle, which we refuse; two batches must fit the broker's 1 MiB."""

_BATCH_BYTES_MAX = 500 * 1024


class RaftTimings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. The defaults gave 233 ms from the kill of a leader to the next commit."""

    election_min_s: float = 0.2
    election_max_s: float = 0.4
    append_period_s: float = 0.05
    fallback_s: float = 0.5
    """A leader that hears no majority for so long steps down."""
    stall_hold_s: float = 0.1
    compact_entries: int = 256
    """Entries in the log above which it is compacted."""

    @property
    def tick_s(self) -> float:
        """How often `tick` should be called, messages apart."""
        return 0.6 * self.append_period_s

    @property
    def stall_s(self) -> float:
        """A gap between ticks that counts as a stall of the loop."""
        return 0.6 * self.election_min_s

    @property
    def ahead_s(self) -> float:
        """How long a leader's commit index may lag behind what a follower has applied."""
        return 2 * self.fallback_s

    @property
    def mute_s(self) -> float:
        """How long a fresh replica neither votes nor stands."""
        return 2 * self.election_max_s


ALONE = RaftTimings(election_min_s=0.035, election_max_s=0.045, append_period_s=0.01)
"""For a cluster of one: nobody to wait for."""


class StateMachine:
    """What a replica drives. Called synchronously from within `tick` and `receive`."""

    def apply(self, payload: bytes, index: int) -> None:
        """Apply the committed entry at *index*."""
        raise NotImplementedError

    def dump(self) -> bytes:
        """Return the whole state."""
        raise NotImplementedError

    def load(self, data: bytes) -> None:
        """Replace the whole state."""
        raise NotImplementedError


class PeerNode(Node):  # type: ignore[misc]
    """A peer. Its hash does not change from run to run, so that simulations can be repeated."""

    def __hash__(self) -> int:
        return int.from_bytes(str(self.id).encode()[-7:], "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and bool(self.id == other.id)


class _LazyView:
    """Stands in the object that pysyncobj pickles, and pickles as the encoded view."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return (bytes, (self._machine.dump(),))


class _Glue(Transport):  # type: ignore[misc]
    """pysyncobj's transport hook."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(None, None, ())
        self.replica = replica

    def send(self, node: Any, message: Any) -> bool:
        return self.replica.send(str(node.id), message)

    def deliver(self, node: PeerNode, message: dict[str, Any]) -> None:
        self._onMessageReceived(node, message)

    def connect(self, node: PeerNode, up: bool) -> None:
        (self._onNodeConnected if up else self._onNodeDisconnected)(node)

    def destroy(self) -> None:
        self.setOnMessageReceivedCallback(None)
        self.setOnNodeConnectedCallback(None)
        self.setOnNodeDisconnectedCallback(None)


class _Replicated(SyncObj):  # type: ignore[misc]
    """The replicated object: one method, no state of its own but the view's stand-in."""

    def __init__(
        self, me: PeerNode, others: Iterable[PeerNode], conf: SyncObjConf, replica: Replica
    ) -> None:
        # Attributes made before `super().__init__` are left out of pysyncobj's snapshots.
        self._replica = replica
        super().__init__(me, others, conf, transport=replica.glue)
        self.view: object = _LazyView(replica.machine)

    @replicated  # type: ignore[untyped-decorator]
    def commit(self, payload: bytes) -> None:
        """Apply *payload*; must never raise, and must stay the only replicated method."""
        self._replica.applied(payload)


class _CriticalHandler(logging.Handler):
    """pysyncobj tells by a CRITICAL line alone that it has dropped applied entries."""

    def emit(self, record: logging.LogRecord) -> None:
        if Replica.running is not None:
            Replica.running.fail("critical", record.getMessage())


_critical = _CriticalHandler(logging.CRITICAL)


class Replica:
    """One life of a replica: tick it, feed it messages, let it commit; replace it on `failed`."""

    running: Replica | None = None
    """The replica whose call into pysyncobj is under way in this thread, if any."""

    def __init__(
        self,
        *,
        me: str,
        peers: Iterable[str],
        membership: str,
        birth: int,
        machine: StateMachine,
        publish: Publish,
        connected: Callable[[], bool],
        monotonic: Callable[[], float],
        timings: RaftTimings | None = None,
    ) -> None:
        others = sorted(set(peers) - {me})
        self.timings = timings or (RaftTimings() if others else ALONE)
        self.machine, self.me, self.birth = machine, me, birth
        self.failed = ""
        """Why this life must end: `critical` (applied entries were dropped), `index` (applied
        beyond the commit index), `ahead` (applied beyond what the leader has committed, for
        longer than a new leader needs to catch up), `exception` (pysyncobj raised), `view` (a
        view did not load)."""
        self._monotonic, self._connected = monotonic, connected
        now_s = monotonic()
        # A little chance, so that a cluster started at one instant does not stand as one.
        mute_s = self.timings.mute_s + random.random() * self.timings.election_max_s
        self.transport = NatsTransport(
            me=me,
            peers=others,
            membership=membership,
            birth=birth,
            publish=publish,
            monotonic=monotonic,
            mute_until_s=now_s + mute_s if others else 0.0,
        )
        self._nodes = {peer: PeerNode(peer) for peer in others}
        self._ticked_s, self._held_until_s = now_s, 0.0
        self._chunks: dict[str, list[bytes]] = {}
        self._ahead: tuple[int, float] | None = None
        """The leader's term, and since when it has been behind us."""
        self.progress = Progress()
        logger = logging.getLogger(_engine.__name__)
        if _critical not in logger.handlers:
            logger.addHandler(_critical)
        if not logger.isEnabledFor(logging.CRITICAL):
            # An application that wants no lines at all would take our signal away with them.
            logger.setLevel(logging.CRITICAL)
        self.glue = _Glue(self)
        self._raft = _Replicated(PeerNode(me), self._nodes.values(), self._conf(), self)

    # -- for the owner -------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """We think that we lead; another may think so too."""
        return bool(self._raft._isLeader())

    @property
    def leader(self) -> str:
        """Who leads, as far as we know; empty: unknown."""
        node = self._raft._getLeader()
        return str(node.id) if node is not None else ""

    @property
    def term(self) -> int:
        """Raft's current term."""
        return int(self._raft.raftCurrentTerm)

    @property
    def index(self) -> int:
        """Index of the last entry applied."""
        return int(self._raft.raftLastApplied)

    @property
    def caught_up(self) -> bool:
        """Everything that the leader is known to have committed has been applied."""
        committed = self._raft.getStatus()["leader_commit_idx"]
        return committed is not None and self.index >= committed

    @property
    def log_entries(self) -> int:
        """Entries held in memory."""
        return int(self._raft._getRaftLogSize())

    def commit(self, payload: bytes) -> None:
        """Ask for *payload* to be committed, by whoever leads. No answer: watch the state.

        Raises `LimitExceeded` above `PAYLOAD_BYTES_MAX`.
        """
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"commit of {len(payload)} bytes, {PAYLOAD_BYTES_MAX} are allowed")
        self._raft.commit(payload)

    def tick(self) -> None:
        """Let Raft act: elections, signs of life, applying what is committed."""
        now_s = self._monotonic()
        if self._nodes and now_s - self._ticked_s > self.timings.stall_s:
            self._held_until_s = now_s + self.timings.stall_hold_s
        self._ticked_s = now_s
        if self.failed or now_s < self._held_until_s:
            return
        up = self._connected()
        # The transport sends answers while muted; only elections wait for the peers.
        self.transport.link(up)
        peers_up = up and not self.transport.muted
        for node in self._nodes.values():
            if peers_up != self._raft.isNodeConnected(node):
                self.glue.connect(node, peers_up)
        self._guarded(self._raft.doTick, 0.0)

    def receive(self, data: bytes) -> bool:
        """Take a message from the wire; True when a tick should follow at once."""
        if self.failed:
            return False
        envelope = self.transport.receive(data)
        if envelope is None:
            return False
        message, sender = envelope.message, envelope.sender
        messages: Sequence[RaftMessage] = [message]
        if isinstance(message, AppendEntries | InstallView):
            self._compare(message)
        elif isinstance(message, NextIndex):
            messages = self.progress.bounded(
                sender,
                envelope.birth,
                message,
                term=self.term,
                commit_index=int(self._raft.raftCommitIndex),
            )
        for each in messages:
            self._guarded(self.glue.deliver, self._nodes[sender], to_engine(each))
        if isinstance(message, InstallView) and not self.failed:
            self._take_view()
        return bool(messages)

    def close(self) -> None:
        """End this life."""
        self.failed = self.failed or "closed"
        self._raft.destroy()

    # -- for pysyncobj -------------------------------------------------------------------------

    def applied(self, payload: bytes) -> None:
        """Hand a committed payload to the machine; swallows nothing silently, raises nothing."""
        try:
            self.machine.apply(payload, self.index + 1)
        except Exception:
            # Every replica fails alike: leaving this life would not help, healing will.
            log.exception("commit not applied", extra={"index": self.index + 1})

    def fail(self, reason: str, detail: str) -> None:
        """End this life as soon as the owner looks."""
        if not self.failed:
            self.failed = reason
            log.warning("raft replica failed", extra={"reason": reason, "detail": detail})

    def send(self, peer: str, message: dict[str, Any]) -> bool:
        """Transcode and send one of pysyncobj's messages."""
        wire = self._to_wire(peer, message)
        if isinstance(wire, InstallView):
            self.progress.note_sent(peer, term=wire.term, last_index=wire.last.index)
        elif isinstance(wire, AppendEntries) and wire.entries:
            self.progress.note_sent(peer, term=wire.term, last_index=wire.entries[-1].index)
        return wire is not None and self.transport.send(peer, wire)

    # -- inside --------------------------------------------------------------------------------

    def _conf(self) -> SyncObjConf:
        timings = self.timings
        return SyncObjConf(
            autoTick=False,
            raftMinTimeout=timings.election_min_s,
            raftMaxTimeout=timings.election_max_s,
            appendEntriesPeriod=timings.append_period_s,
            leaderFallbackTimeout=timings.fallback_s,
            appendEntriesUseBatch=False,
            appendEntriesBatchSizeBytes=_BATCH_BYTES_MAX,
            logCompactionMinEntries=timings.compact_entries,
            commandsQueueSize=1000,
            # A command that waits for a leader would be carried out long after its time.
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
        )

    def _guarded(self, call: Callable[..., object], *args: object) -> None:
        before, Replica.running = Replica.running, self
        try:
            call(*args)
        except Exception as error:
            log.exception("raft engine raised")
            self.fail("exception", repr(error))
        finally:
            Replica.running = before
        if self._raft.raftLastApplied > self._raft.raftCommitIndex:
            self.fail("index", f"{self._raft.raftLastApplied} > {self._raft.raftCommitIndex}")

    def _to_wire(self, peer: str, message: dict[str, Any]) -> RaftMessage | None:
        match message["type"]:
            case "append_entries" if "transmission" in message:
                self.fail("exception", "an entry above the batch size")
                return None
            case "append_entries" if "serialized" in message:
                return self._collect_view(peer, message)
            case "next_node_idx":
                return NextIndex(
                    self.term, message["next_node_idx"], message["reset"], message["success"]
                )
            case _:
                return to_wire(message)

    def _compare(self, message: AppendEntries | InstallView) -> None:
        """Notice a leader that knows less than we have applied: most replicas have forgotten.

        If our log has been compacted beyond the end of the leader's, pysyncobj asks for ever for
        what comes next; if not, the two step back one entry for each append period, which takes
        fifteen seconds for three hundred.
        """
        if message.term < self.term or message.commit_index >= self.index:
            self._ahead = None
            return
        now_s = self._monotonic()
        if self._ahead is None or self._ahead[0] != message.term:
            self._ahead = (message.term, now_s)
        elif now_s - self._ahead[1] > self.timings.ahead_s:
            self.fail("ahead", f"{self.index} > {message.commit_index}")

    def _collect_view(self, peer: str, message: dict[str, Any]) -> RaftMessage | None:
        """Gather the pieces of our own snapshot; one message once it is whole.

        Pieces are not sent: a message without entries makes pysyncobj's follower raise its commit
        index over entries that nobody has compared.
        """
        piece = message["serialized"]
        if not piece:
            return None
        data, first, last = piece
        chunks = self._chunks.setdefault(peer, [])
        if first:
            chunks.clear()
        chunks.append(data)
        if not last:
            return None
        del self._chunks[peer]
        return view_to_wire(message, b"".join(chunks))

    def _take_view(self) -> None:
        view = self._raft.view
        if not isinstance(view, bytes):
            return
        self._raft.view = _LazyView(self.machine)
        try:
            self.machine.load(view)
        except Exception as error:
            log.exception("view not loaded")
            self.fail("view", repr(error))
