"""Brokers that want to know who comes: certificates, keys and JWTs made for one test."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nkeys
import trustme

from headrace.bus import find_server, free_port

SERVER_NAME = "broker.test"


class Certificates(NamedTuple):
    """Paths of PEM files."""

    ca: Path
    other_ca: Path
    """Has signed none of these."""
    server: Path
    """Of `SERVER_NAME` and 127.0.0.1, its key in the same file."""
    client: Path


def certificates(folder: Path) -> Certificates:
    """Write an authority, and what it has signed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(*(folder / f"{name}.pem" for name in Certificates._fields))
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(made.ca))
    other.cert_pem.write_to_path(str(made.other_ca))
    leaf = ours.issue_cert(SERVER_NAME, "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(made.server))
    leaf = ours.issue_cert("ada@example.test")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(made.client))
    return made


class Key(NamedTuple):
    """A NATS key pair."""

    seed: str
    public: str
    pair: Any


def new_key(kind: int = nkeys.PREFIX_BYTE_USER) -> Key:
    """Return a new key: of a user, an account, an operator (by its prefix)."""
    seed = nkeys.encode_seed(os.urandom(32), kind)
    pair = nkeys.from_seed(bytearray(seed))
    return Key(bytes(seed).decode(), bytes(pair.public_key).decode(), pair)


def _jwt(kind: str, subject: Key, issuer: Key, **claims: Any) -> str:
    """Return a token as https://docs.nats.io/ describes it, version 2."""

    def packed(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    body = {
        "iat": 1_700_000_000,
        "iss": issuer.public,
        "name": kind,
        "sub": subject.public,
        "nats": {**claims, "type": kind, "version": 2},
    }
    digest = hashlib.sha256(json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(packed(json.dumps(part).encode()) for part in (head, body))
    return f"{text}.{packed(issuer.pair.sign(text.encode()))}"


def with_credentials(creds: Path) -> str:
    """Write credentials of a new user; return the configuration of a server that knows it."""
    operator = new_key(nkeys.PREFIX_BYTE_OPERATOR)
    account, user = new_key(nkeys.PREFIX_BYTE_ACCOUNT), new_key()
    unlimited = dict.fromkeys(("subs", "data", "payload"), -1)
    limits = unlimited | dict.fromkeys(("imports", "exports", "conn", "leaf"), -1)
    account_jwt = _jwt("account", account, operator, limits=limits | {"wildcards": True})
    user_jwt = _jwt("user", user, account, pub={}, sub={}, **unlimited)
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return (
        f"operator: {_jwt('operator', operator, operator)}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {account.public}: {account_jwt} }}\n"
    )


@contextmanager
def guarded(folder: Path, config: str) -> Iterator[str]:
    """Run a server with lines of configuration; yield ``127.0.0.1:port``."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    path = folder / "guarded.conf"
    path.write_text(f"listen: 127.0.0.1:{port}\n{config}")
    with (folder / "guarded.log").open("wb") as log:
        process = subprocess.Popen([find_server(), "-c", str(path)], stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def tls(made: Certificates, *, verify: bool = False) -> str:
    """Return the section of the configuration; *verify*: clients need a certificate too."""
    more = f"ca_file: {json.dumps(str(made.ca))}\n  verify: true" if verify else ""
    server = json.dumps(str(made.server))
    return f"tls {{\n  cert_file: {server}\n  key_file: {server}\n  {more}\n}}\n"
