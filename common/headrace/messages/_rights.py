"""What each role says and hears at the broker: the one table that permissions are made from.

``flowctl cluster credentials`` writes a server's accounts from it, and docs/security.md prints it.
Coordinators and operators have an account of their own, with all streams in it, and no limits
there. Each worker and each client has an account to itself, which reaches nothing but what is
listed here. Permissions on subjects within one account would not do: whoever may ask JetStream
for a message names the subject that the answer goes to, the log's too (docs/adr/0057).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from headrace.messages import subjects

ANYTHING: Final = "*"
"""As a worker's id or labels: whichever it says."""

Kind = Literal["ask", "send", "pull", "hear"]


class Right(msgspec.Struct, frozen=True):
    """Something that a role may do."""

    kind: Kind
    """``ask`` one answer, ``send`` without one, ``pull`` many answers, ``hear`` what others say."""
    subject: str
    why: str


def worker_rights(namespace: str, worker: str, labels: tuple[str, ...]) -> list[Right]:
    """Return what a worker may do; *labels* ``("*",)`` and *worker* ``*``: any."""
    digest = ANYTHING if ANYTHING in labels else subjects.labels_of(labels)
    hears = f"headrace.worker.{namespace}.{digest}.{worker}.*"
    return [
        Right(
            "send",
            f"headrace.hb.worker.{namespace}.{digest}.{worker}",
            "heartbeats: its namespace, its labels (as a digest) and its id are in the subject",
        ),
        Right("hear", hears, "orders: which lanes there are, cancel, drain"),
        Right(
            "pull",
            f"$JS.API.CONSUMER.MSG.NEXT.{subjects.TASK_STREAM}.*",
            "tasks of lanes whose consumers' names it was told; they cannot be guessed",
        ),
        Right("send", f"$JS.ACK.{subjects.TASK_STREAM}.>", "that it has got them"),
        Right("ask", subjects.result(namespace, "*", worker), "results and claims, its own"),
        Right("send", subjects.step_logs("*", f"{namespace}/*"), "output of steps"),
        Right("ask", subjects.store(namespace), "large values and artifacts of its namespace"),
    ]


def client_rights(namespace: str) -> list[Right]:
    """Return what a client of one namespace may do."""
    archive = subjects.archive(namespace)
    return [
        Right("ask", subjects.INFO, "the cluster: shards, coordinators, workers' names"),
        Right("ask", subjects.everybody(subjects.INFO), "the same, of every coordinator"),
        Right("ask", subjects.command(namespace, "*"), "commands and queries"),
        Right("ask", archive, "queries about closed runs"),
        Right("ask", subjects.everybody(archive), "the same, of every coordinator"),
        Right("ask", subjects.parts("*", "*"), "parts of a large reply; a random token names it"),
        Right("ask", f"{subjects.INCOMING}{namespace}.>", "events that begin or wake runs"),
        Right("ask", subjects.store(namespace), "large inputs, artifacts and output of steps"),
    ]
