"""`artifacts`: files that a run keeps."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, shared_options
from headrace.flowctl._text import table

if TYPE_CHECKING:
    from headrace.client import Client

UNPACKED_BYTES_MAX = 16 * 1024 * 1024 * 1024


@click.command()
@click.argument("run")
@click.option(
    "--download",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Unpack each artifact into a folder of its name in DIR.",
)
@click.option("--name", "names", multiple=True, help="Only this one; may be given again.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of `flowctl run` (.headrace/run), instead of a cluster.",
)
@shared_options
@pass_settings
def artifacts(
    settings: Settings,
    run: str,
    target: Path | None,
    names: tuple[str, ...],
    directory: Path | None,
) -> None:
    """List the artifacts of a run, or fetch them.

    \b
    Examples:
      flowctl artifacts 01k3x…
      flowctl artifacts 01k3x… --name report --download out
      flowctl artifacts 01k3x… --dir .headrace/run
    """
    from headrace.errors import NotFound

    if directory is None:
        found = run_client(settings, lambda client: _of_cluster(client, run, names, target))
    else:
        namespace = settings.namespace or "default"
        found = _of_folder(directory / "artifacts" / namespace / run, names, target)
    missing = sorted(set(names) - {entry["name"] for entry in found})
    if missing:
        raise NotFound(f"run {run} has no artifact {', '.join(missing)}")
    rows = [[e["name"], str(e["size"]), str(e.get("files", "")), e.get("path", "")] for e in found]
    emit(
        settings,
        found,
        lines=lambda _: table(
            ["NAME", "SIZE", "FILES", "STEP"], rows, colour=colourful(sys.stdout)
        ),
        names=[entry["name"] for entry in found],
        nothing=f"run {run} has no artifacts",
    )


async def _of_cluster(
    client: Client, run: str, names: tuple[str, ...], target: Path | None
) -> list[dict[str, Any]]:
    """Return what the run's steps have kept: what they said of it stands in its history."""
    kept: dict[str, dict[str, Any]] = {}
    for step in (await client.get(run)).steps:
        told = step.outputs if isinstance(step.outputs, dict) else {}
        if step.uses == "artifact/upload" and step.state == "COMPLETED" and told.get("size"):
            name = str(told["name"])
            if not names or name in names:
                fields = {key: told.get(key) for key in ("name", "size", "files", "digest")}
                kept[name] = fields | {"path": step.path}
    if target is not None:
        for name in kept:
            _unpack(name, await client.artifact(run, name), target)
    return [kept[name] for name in sorted(kept)]


def _of_folder(folder: Path, names: tuple[str, ...], target: Path | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.tar.gz")) if folder.is_dir() else ():
        name = path.name.removesuffix(".tar.gz")
        if names and name not in names:
            continue
        found.append({"name": name, "size": path.stat().st_size})
        if target is not None:
            _unpack(name, path.read_bytes(), target)
    return found


def _unpack(name: str, data: bytes, target: Path) -> None:
    """Unpack one artifact; nothing of it can leave its folder."""
    import tarfile

    from headrace.errors import InvalidRequest, LimitExceeded

    folder = target / name
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:gz") as tar:
            if sum(member.size for member in tar) > UNPACKED_BYTES_MAX:
                raise LimitExceeded(f"artifact {name} has over {UNPACKED_BYTES_MAX} bytes")
            folder.mkdir(parents=True, exist_ok=True)
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise InvalidRequest(f"artifact {name} cannot be unpacked: {error}") from error
    note(f"{name} → {folder}")
