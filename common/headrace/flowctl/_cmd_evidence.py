"""`evidence`: what a run did, in a file in which any change shows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, shared_options
from headrace.flowctl._text import plain, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.evidence import Verdict


@click.command()
@click.argument("run", metavar="RUN|verify")
@click.argument(
    "file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="verify: it must be signed by this key (PEM, public).",
)
@click.option(
    "--with-cluster",
    is_flag=True,
    help="verify: compare it with what the cluster says of the run now.",
)
@shared_options
@pass_settings
def evidence(
    settings: Settings, run: str, file: Path | None, key_file: Path | None, with_cluster: bool
) -> None:
    """Export what a run did, step by step, with the hash chain over its history; or check that.

    With -o json the bundle is printed, to be kept as it is: `verify` wants each byte. It exits
    with 1 when anything was changed, dropped, added or moved, and says where.

    \b
    Examples:
      flowctl evidence 01k3x… -o json > run.json
      flowctl evidence verify run.json
      flowctl evidence verify run.json --key cluster.pub.pem --with-cluster
    """
    if run == "verify" and file is not None:
        _verify(settings, file, key_file, with_cluster=with_cluster)
        return
    if file is not None or key_file is not None or with_cluster:
        raise click.UsageError("`flowctl evidence RUN`, or `flowctl evidence verify FILE`")
    text = run_client(settings, lambda client: client.evidence(run))
    if settings.format == "json":
        click.echo(text.decode(), nl=False)
        return
    import msgspec

    bundle: dict[str, Any] = msgspec.json.decode(text)
    rows = [_row(step, attempt) for step in bundle["steps"] for attempt in step["attempts"]]
    header = ["PATH", "USES", "ATTEMPT", "OUTCOME", "WORKER", "VERSION", "READ", "GAVE"]
    emit(
        settings,
        bundle,
        lines=lambda _: table(header, rows, colour=colourful(sys.stdout)),
        names=[bundle["export"]["digest"]],
    )
    head = bundle["head"]
    note(f"{head['events']} events; the last link of the chain is {head['link']}")


def _row(step: dict[str, Any], attempt: dict[str, Any]) -> list[str]:
    gave = step["output"] if attempt.get("outcome") == "completed" else ""
    return [
        plain(step["path"]),
        plain(step["uses"]),
        str(attempt["attempt"]),
        attempt.get("outcome", ""),
        plain(attempt.get("worker", "").partition(".")[0]),
        plain(attempt.get("version", ""))[:19],
        attempt.get("inputs", "")[:12],
        gave[:12],
    ]


def _verify(settings: Settings, file: Path, key_file: Path | None, *, with_cluster: bool) -> None:
    from headrace.evidence import check, load_public_key

    text = file.read_bytes()
    verdict = check(text, key=load_public_key(key_file) if key_file else "")
    findings = list(verdict.findings)
    if with_cluster and not findings:
        findings += _compared(settings, text, verdict)
    data = {
        "whole": not findings,
        "run": verdict.run,
        "events": verdict.events,
        "key": verdict.key,
        "sealed": verdict.sealed,
        "findings": [found._asdict() for found in findings],
    }
    emit(
        settings,
        data,
        lines=lambda _: (
            [f"{plain(found.where)}: {plain(found.what)}" for found in findings]
            or [f"whole: {verdict.events} events of run {plain(verdict.run)}"]
        ),
        names=[verdict.run],
    )
    if findings:
        sys.exit(1)
    if verdict.key:
        note(f"signed by {verdict.key}" + ("" if key_file else "; --key says whose that must be"))
    elif not with_cluster:
        note(
            "not signed: whoever could write this file could have made it; "
            "--with-cluster compares it with the run"
        )


def _compared(settings: Settings, text: bytes, verdict: Verdict) -> list[Any]:
    """Return what the cluster says otherwise."""
    from headrace.evidence import check, differences

    namespace, _, run = verdict.run.partition("/")

    async def action(client: Client) -> bytes:
        return await client.evidence(run)

    now = run_client(replace(settings, namespace=namespace), action)
    wrong = check(now).findings
    if wrong:
        return [found._replace(where=f"the cluster's own: {found.where}") for found in wrong]
    return differences(text, now)
