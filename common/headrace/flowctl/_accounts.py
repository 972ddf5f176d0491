"""Who may do what at the broker, as a NATS server's configuration: made from `Right`s.

It owns the folder that `flowctl cluster credentials` writes: which users there are
(`credentials.json`, no secrets in it), a seed for each, and `accounts.conf` for the servers.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.errors import Conflict, InvalidConfig, InvalidRequest
from headrace.messages import ANYTHING, Right, client_rights, worker_rights
from headrace.messages.subjects import valid_name

MANIFEST: Final = "credentials.json"
ACCOUNTS: Final = "accounts.conf"
CORE: Final = "HEADRACE"
"""The account of coordinators and operators; the streams are in it."""
INSIDE: Final = ("coordinator", "operator")
ROLES: Final = (*INSIDE, "worker", "pool", "client")
VERSION: Final = 1
_SERVICES: Final = ("ask", "send", "pull")


class User(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One login."""

    role: str
    name: str
    public_key: str = ""
    namespaces: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the file with its seed."""
        return f"{self.role}-{self.name}.nk"

    @property
    def account(self) -> str:
        """Name of its account."""
        return CORE if self.role in INSIDE else f"{CORE}_{self.role}_{self.name}"

    def rights(self) -> list[Right]:
        """Return what it may do outside of its account."""
        if self.role == "client":
            found = [right for name in self.namespaces for right in client_rights(name)]
            return list(dict.fromkeys(found))
        if self.role in ("worker", "pool"):
            (namespace,) = self.namespaces
            worker = self.name if self.role == "worker" else ANYTHING
            return worker_rights(namespace, worker, self.capabilities)
        return []

    def same(self, other: User) -> bool:
        """Tell whether two differ in nothing but the key."""
        return msgspec.structs.replace(self, public_key=other.public_key) == other


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All logins of a cluster."""

    version: int = VERSION
    users: tuple[User, ...] = ()


def accounts(users: Iterable[User]) -> dict[str, Any]:
    """Return the section ``accounts`` of a NATS server's configuration."""
    users = list(users)
    inside = [{"nkey": user.public_key} for user in users if user.role in INSIDE]
    made: dict[str, Any] = {CORE: {"jetstream": "enabled", "users": inside, "exports": []}}
    exported: dict[tuple[str, str], list[str]] = {}
    for user in users:
        if user.role in INSIDE:
            continue
        granted = user.rights()
        for right in granted:
            exported.setdefault((right.kind, right.subject), []).append(user.account)
        made[user.account] = {
            "users": [{"nkey": user.public_key}],
            "imports": [
                {_word(right.kind): {"account": CORE, "subject": right.subject}}
                for right in granted
            ],
        }
    made[CORE]["exports"] = [
        {_word(kind): subject, "accounts": names}
        | ({"response_type": "stream"} if kind == "pull" else {})
        for (kind, subject), names in sorted(exported.items())
    ]
    return made


def accounts_file(users: Iterable[User]) -> str:
    """Return the text to include in a server's configuration."""
    return (
        "# Written by `flowctl cluster credentials`, which writes it anew: change nothing here.\n"
        '# In nats-server.conf: include "./accounts.conf", and no other accounts or users.\n'
        f"accounts: {json.dumps(accounts(users), indent=2)}\n"
    )


def _word(kind: str) -> str:
    return "service" if kind in _SERVICES else "stream"


class Folder:
    """The folder of one cluster's logins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.accounts = path / ACCOUNTS
        """The servers' part."""
        self.users: dict[tuple[str, str], User] = {}
        manifest = path / MANIFEST
        try:
            read = msgspec.json.decode(manifest.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidConfig(str(manifest), str(error)) from error
        if read.version != VERSION:
            raise InvalidConfig(str(manifest), f"version {read.version} is not known")
        self.users = {(user.role, user.name): user for user in read.users}

    def add(self, wanted: Sequence[User], *, force: bool) -> list[User]:
        """Make what is not there yet; return those that were made.

        *force* gives those that are there new keys, and what is said of them now. Raises
        `Conflict`, having written nothing, for one that is there and differs.
        """
        made = []
        for user in wanted:
            _check(user)
            there = self.users.get((user.role, user.name))
            if there is not None and not force:
                if not user.same(there):
                    raise Conflict(
                        f"{user.role} {user.name} is there with {_said(there)}, not "
                        f"{_said(user)}: --force replaces its login"
                    )
                if (self.path / user.file).exists():
                    continue
                raise Conflict(
                    f"the seed of {user.role} {user.name} is not in {self.path} any more: "
                    "put it back, or --force makes a new one"
                )
            made.append(user)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        keyed = []
        for user in made:
            seed, public = _new_key()
            _write(self.path / user.file, f"{seed}\n")
            keyed.append(msgspec.structs.replace(user, public_key=public))
        self.users |= {(user.role, user.name): user for user in keyed}
        users = sorted(self.users.values(), key=lambda user: (ROLES.index(user.role), user.name))
        manifest = msgspec.json.encode(Manifest(users=tuple(users)))
        _write(self.path / MANIFEST, msgspec.json.format(manifest).decode() + "\n")
        _write(self.accounts, accounts_file(users))
        return keyed


def _check(user: User) -> None:
    for name in (user.name, *user.namespaces):
        if not valid_name(name):
            raise InvalidRequest(f"{name!r} is no name: 1 to 128 of A-Z a-z 0-9 _ -")


def _said(user: User) -> str:
    words = [f"namespace {name}" for name in user.namespaces]
    words += [f"label {label}" for label in user.capabilities]
    return ", ".join(words) or "no settings"


def _new_key() -> tuple[str, str]:
    """Return (seed, public key) of a new user."""
    try:
        import nkeys
    except ImportError as error:
        raise InvalidRequest(
            "keys need the package nkeys: pip install 'headrace[nkeys]'"
        ) from error
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(seed))
    return bytes(seed).decode(), bytes(pair.public_key).decode()


def _write(path: Path, text: str) -> None:
    """Replace a file in one step; only this user may read it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
