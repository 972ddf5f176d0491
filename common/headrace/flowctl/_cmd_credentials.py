"""The command `cluster credentials`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.errors import InvalidRequest
from headrace.flowctl._output import emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, some_options
from headrace.flowctl._text import table

if TYPE_CHECKING:
    from headrace.flowctl._accounts import Folder, User


@click.command()
@click.option(
    "--dir",
    "folder",
    default="credentials",
    metavar="DIR",
    help="Folder of the cluster's logins (default: ./credentials).",
)
@click.option("--coordinator", "coordinators", multiple=True, metavar="ID", help="A coordinator.")
@click.option(
    "--operator", "operators", multiple=True, metavar="NAME", help="A person who may do everything."
)
@click.option("--worker", "workers", multiple=True, metavar="ID", help="One worker, by its id.")
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="NAME",
    help="Workers that share a login, with any ids: replicas that come and go.",
)
@click.option("--client", "clients", multiple=True, metavar="NAME", help="A client of namespaces.")
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NAME",
    help="Of the workers, pools and clients named here; clients may have several"
    " (default: default).",
)
@click.option(
    "-c",
    "--capability",
    "capabilities",
    multiple=True,
    metavar="LABEL",
    help="Labels that the workers and pools offer, all of them, exactly (default: default);"
    " '*': any.",
)
@click.option("--force", is_flag=True, help="Give logins that are there new keys and settings.")
@some_options("output")
@pass_settings
def credentials(
    settings: Settings,
    folder: str,
    coordinators: tuple[str, ...],
    operators: tuple[str, ...],
    workers: tuple[str, ...],
    pools: tuple[str, ...],
    clients: tuple[str, ...],
    namespaces: tuple[str, ...],
    capabilities: tuple[str, ...],
    force: bool,
) -> None:
    """Make logins for the roles of a cluster, and the accounts for its NATS servers.

    Writes into DIR, readable by you only: `accounts.conf`, which every server's configuration
    includes; a file with the seed of an nkey for each login (`worker-gpu-1.nk`), which goes to
    that process alone, as broker.nkey_file (flowctl: FLOWCTL_NKEY_FILE); and `credentials.json`,
    which remembers who there is. What is there stays: call it again to add one more worker, then
    let the servers read their configuration again (`nats-server --signal reload`).

    A worker may take tasks for its labels in its namespace, and answer as itself. A client may
    command in its namespaces. Neither reaches the logs, other namespaces, or each other.
    Coordinators and operators may do everything. docs/security.md has the table.

    \b
    Examples:
      flowctl cluster credentials --coordinator c0 --coordinator c1 --coordinator c2 --operator me
      flowctl cluster credentials --worker gpu-1 -n science -c linux -c gpu
      flowctl cluster credentials --pool builders -c linux --client ci
    """
    from headrace.flowctl._accounts import Folder, User

    spaces = namespaces or ("default",)
    labels = tuple(sorted({label.lower() for label in capabilities or ("default",)}))
    if (workers or pools) and len(spaces) > 1:
        raise InvalidRequest("a worker has one namespace: name its login in a call of its own")
    wanted = [User(role="coordinator", name=name) for name in coordinators]
    wanted += [User(role="operator", name=name) for name in operators]
    for role, names in (("worker", workers), ("pool", pools)):
        wanted += [
            User(role=role, name=name, namespaces=spaces, capabilities=labels) for name in names
        ]
    spaces = tuple(sorted(set(spaces)))
    wanted += [User(role="client", name=name, namespaces=spaces) for name in clients]
    kept = Folder(Path(folder))
    _show(settings, kept, kept.add(wanted, force=force))


def _show(settings: Settings, kept: Folder, made: list[User]) -> None:
    users = list(kept.users.values())
    files = [str(kept.path / user.file) for user in users]
    rows = [
        {
            "role": user.role,
            "name": user.name,
            "account": user.account,
            "namespaces": list(user.namespaces),
            "capabilities": list(user.capabilities),
            "public_key": user.public_key,
            "file": file,
            "new": user in made,
        }
        for user, file in zip(users, files, strict=True)
    ]
    cells = [
        [
            user.role,
            user.name,
            ",".join(user.namespaces),
            ",".join(user.capabilities),
            file,
            "yes" if user in made else "",
        ]
        for user, file in zip(users, files, strict=True)
    ]
    header = ["ROLE", "NAME", "NAMESPACES", "LABELS", "FILE", "NEW"]
    emit(
        settings,
        {"accounts": str(kept.accounts), "users": rows},
        lines=lambda _: table(header, cells),
        names=files,
    )
    note(f"{len(made)} new; the servers' part is {kept.accounts}")
