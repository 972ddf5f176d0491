"""Commands about the cluster: `workers`, `drain`, and the group `cluster`."""

from __future__ import annotations

import asyncio
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from headrace.errors import InvalidRequest
from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import duration, one_line, parse_duration, rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import ServerInfo, ShardInfo, WorkerView

CHECK_S = 5.0
"""How long `cluster check` waits for what passes."""
PASSING = ("standby behind", "no owner")
"""Verdicts that may be those of a moment: a standby folds on, a shard is being taken over."""


@click.command()
@shared_options
@pass_settings
def workers(settings: Settings) -> None:
    """List the workers and what they offer.

    \b
    Examples:
      flowctl workers -o wide
    """
    from headrace.flowctl._views import worker_json

    async def action(client: Client) -> ServerInfo:
        return await client.info(workers=True)

    found = run_client(settings, action).workers
    if settings.namespace:
        found = [worker for worker in found if worker.namespace == settings.namespace]

    def lines(wide: bool) -> list[str]:
        header = ["WORKER", "NAMESPACE", "STATE", "FREE/SLOTS", "CAPABILITIES"]
        header += ["HOST", "RELEASE", "LAST SEEN", "HANDLERS", "PROBLEMS"] if wide else []
        rows = [_worker_row(worker, wide=wide) for worker in found]
        return table(header, rows, colour=colourful(sys.stdout))

    emit(
        settings,
        [worker_json(worker) for worker in found],
        lines=lines,
        names=[worker.id for worker in found],
        nothing="no workers",
    )


def _worker_row(worker: WorkerView, *, wide: bool) -> list[str]:
    row = [
        worker.id,
        worker.namespace,
        worker.state,
        f"{worker.free}/{worker.slots}",
        ",".join(worker.capabilities),
    ]
    if wide:
        last = rfc3339(worker.last_seen_ms) or ""
        handlers = ",".join(
            f"{name}@{worker.versions[name]}" if name in worker.versions else name
            for name in worker.handlers
        )
        problems = one_line("; ".join(worker.problems), 300)
        row += [worker.host, worker.release, last, one_line(handlers), problems]
    return row


@click.command()
@click.argument("worker")
@click.option(
    "--grace",
    default="",
    metavar="TIME",
    help="Time for running steps to finish: 30s, 5m, 0s (default: the worker's worker.grace_ms).",
)
@shared_options
@pass_settings
def drain(settings: Settings, worker: str, grace: str) -> None:
    """Let a worker finish what it has, take nothing new, and stop.

    What still runs after the grace is killed and goes to another worker. WORKER is an id as
    `flowctl workers` lists it, or `id.incarnation` as runs show it.

    \b
    Examples:
      flowctl drain worker-1 --grace 5m
    """
    from headrace.flowctl._views import worker_json

    grace_ms = parse_duration(grace) if grace else None

    async def action(client: Client) -> WorkerView:
        return await client.drain(worker, grace_ms=grace_ms)

    view = run_client(settings, action)
    if view.state == "Offline":
        note(f"worker {view.id}: stopped")
    else:
        left = f", its steps have {duration(grace_ms)} to finish" if grace_ms is not None else ""
        note(f"worker {view.id}: {view.state.lower()}{left}")
    if settings.format not in ("table", "wide"):
        emit(settings, worker_json(view), lines=lambda _: [], names=[view.id])


OF_COORDINATORS = {
    "backup": "headrace.coordinator.backup.command",
    "inspect": "headrace.coordinator.backup.command",
    "migrate": "headrace.coordinator.archive.postgres.command",
    "restore": "headrace.coordinator.backup.command",
}
"""Commands of the coordinator's package, which knows logs and archives: loaded when asked for."""


OWN = {"credentials": "headrace.flowctl._cmd_credentials"}
"""Commands with a module of their own: loaded when asked for, likewise."""


class ClusterCommands(click.Group):
    """The group `cluster`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return sorted([*super().list_commands(ctx), *OF_COORDINATORS, *OWN])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None. Raises `InvalidRequest` if an extra is missing."""
        if cmd_name in OWN:
            own = getattr(import_module(OWN[cmd_name]), cmd_name)
            assert isinstance(own, click.Command), cmd_name
            return own
        if cmd_name not in OF_COORDINATORS:
            return super().get_command(ctx, cmd_name)
        try:
            found = getattr(import_module(OF_COORDINATORS[cmd_name]), cmd_name)
        except ImportError as error:
            extra = (
                "headrace[coordinator,postgres]"
                if cmd_name == "migrate"
                else "headrace[coordinator]"
            )
            raise InvalidRequest(
                f"`flowctl cluster {cmd_name}` needs more packages: pip install '{extra}' ({error})"
            ) from error
        assert isinstance(found, click.Command), cmd_name
        return found


@click.group(cls=ClusterCommands)
@shared_options
@click.pass_context
def cluster(context: click.Context) -> None:
    """Look at the cluster as a whole, make its logins, back it up, bring it back."""
    settings_of(context)


@cluster.command()
@shared_options
@pass_settings
def status(settings: Settings) -> None:
    """Show coordinators, shards and warnings.

    \b
    Examples:
      flowctl cluster status -o json
    """
    from headrace.flowctl._views import info_json

    async def action(client: Client) -> ServerInfo:
        return await client.info(workers=True)

    info = run_client(settings, action)
    emit(
        settings,
        info_json(info),
        lines=lambda wide: _status_lines(info, wide=wide),
        names=[str(shard.shard) for shard in info.shards],
    )
    for warning in info.warnings:
        note(f"warning: {warning}")


def _status_lines(info: ServerInfo, *, wide: bool) -> list[str]:
    online = sum(1 for worker in info.workers if worker.state in ("Online", "Busy"))
    lines = [
        f"release {info.release}, controller {info.controller or 'none'}",
        f"{_many(len(info.coordinators), 'coordinator')}, {_many(len(info.shards), 'shard')}, "
        f"{_many(online, 'worker')} online",
    ]
    if info.broker:
        lines.append(f"broker {info.broker.get('url', '')}, {_sync_text(info.broker)}")
    if info.coordinators:
        lines += ["", *_coordinator_lines(info.coordinators, wide=wide)]
    if info.shards:
        header = ["SHARD", "LEVEL", "OWNER", "STANDBY", "EPOCH", "RUNS", "READY", "POSITION"]
        header += ["LOG BYTES", "STATE HASH"] if wide else []
        rows = [_shard_row(shard, wide=wide) for shard in info.shards]
        lines += ["", *table(header, rows)]
    return lines


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _sync_text(broker: dict[str, Any]) -> str:
    return "synced to disk" if broker.get("synced") else "not known to sync to disk"


def _coordinator_lines(coordinators: list[dict[str, Any]], *, wide: bool) -> list[str]:
    """Return the coordinators; -o json has everything that they tell."""
    header = ["COORDINATOR", "STATUS", "RELEASE", "BACKLOG", "SINCE"]
    header += ["INCARNATION", "FEATURE LEVEL", "CLOCK SKEW"] if wide else []
    rows = []
    for entry in coordinators:
        row = [str(entry.get(key, "")) for key in ("id", "status", "release", "backlog")]
        row.append(rfc3339(entry.get("since_ms", 0)) or "")
        if wide:
            row += [str(entry.get("incarnation", "")), str(entry.get("feature_level", ""))]
            row.append(f"{entry.get('skew_ms', 0)}ms")
        rows.append(row)
    return table(header, rows, colour=colourful(sys.stdout))


def _shard_row(shard: ShardInfo, *, wide: bool) -> list[str]:
    row = [
        str(shard.shard),
        shard.level,
        shard.owner or "none",
        shard.standby or "none",
        str(shard.epoch),
        str(shard.runs),
        str(shard.ready),
        str(shard.position),
    ]
    return [*row, str(shard.log_bytes), shard.state_hash] if wide else row


@cluster.command()
@shared_options
@pass_settings
def check(settings: Settings) -> None:
    """Compare the state of every shard's owner with that of its standby.

    Exits 0 if all that can be compared are equal, else 1.

    \b
    Examples:
      flowctl cluster check
    """
    verdicts = run_client(settings, _check)
    bad = [verdict for verdict in verdicts if verdict["verdict"] in ("different", "no owner")]
    rows = [
        [str(entry["shard"]), str(entry["position"]), entry["verdict"], entry["state_hash"]]
        for entry in verdicts
    ]
    emit(
        settings,
        verdicts,
        lines=lambda _: table(["SHARD", "POSITION", "VERDICT", "STATE HASH"], rows),
        names=[str(entry["shard"]) for entry in verdicts],
    )
    if bad:
        note(f"{len(bad)} of {len(verdicts)} shards are not well")
        raise click.exceptions.Exit(1)


async def _check(client: Client) -> list[dict[str, Any]]:
    until = time.monotonic() + CHECK_S
    verdicts: dict[int, dict[str, Any]] = {}
    while True:
        for shard in (await client.info(workers=True)).shards:
            # A shard is judged once; what passes by itself is looked at again.
            if verdicts.get(shard.shard, {}).get("verdict") not in ("equal", "different"):
                verdicts[shard.shard] = _verdict(shard)
        waiting = any(entry["verdict"] in PASSING for entry in verdicts.values())
        if not waiting or time.monotonic() >= until:
            return [verdicts[number] for number in sorted(verdicts)]
        await asyncio.sleep(0.2)


def _verdict(shard: ShardInfo) -> dict[str, Any]:
    if not shard.owner:
        verdict = "no owner"
    elif not shard.standby or not shard.standby_hash:
        verdict = "no standby"
    elif shard.position != shard.standby_position:
        verdict = "standby behind"
    else:
        verdict = "equal" if shard.state_hash == shard.standby_hash else "different"
    return {
        "shard": shard.shard,
        "verdict": verdict,
        "owner": shard.owner,
        "standby": shard.standby,
        "position": shard.position,
        "standby_position": shard.standby_position,
        "state_hash": shard.state_hash,
        "standby_hash": shard.standby_hash,
    }
