"""Makes what must not stand in a file: keys, certificates and logins of a Compose project.

Runs once, in the container `prepare`, before all others; what exists is left alone. Each role has a
folder (a volume of its own), so that a worker never sees a coordinator's key::

    nats/         ca.crt, server.crt, server.key, auth.conf (public keys only)
    coordinator/  ca.crt, user.nk
    worker/       ca.crt, user.nk
    client/       ca.crt, user.nk

Usage: prepare.py FOLDER [HOSTNAME…]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nkeys

ROLES = ("coordinator", "worker", "client")
OWNER = 10001
"""User and group of all images."""
DAYS = "3650"


def main(folder: Path, hosts: list[str]) -> None:
    """Make what is missing."""
    nats = folder / "nats"
    done = nats / "auth.conf"
    if not done.exists():
        certificates(folder, hosts)
        public = {role: login(folder / role / "user.nk") for role in ROLES}
        public["system"] = login(nats / "system.nk")
        # Last: it says that the rest is whole.
        scratch = done.with_suffix(".new")
        scratch.write_text(accounts(public))
        scratch.replace(done)
        print("made keys, certificates and logins")
    for volume in folder.iterdir():
        os.chown(volume, OWNER, OWNER)
        volume.chmod(0o700)
        if volume.name in (*ROLES, "nats"):
            for path in volume.iterdir():
                os.chown(path, OWNER, OWNER)
                path.chmod(0o400)


def certificates(folder: Path, hosts: list[str]) -> None:
    """Make an authority and the servers' certificate, and give everybody the authority's."""
    nats = folder / "nats"
    authority, key, server = nats / "ca.crt", nats / "ca.key", nats / "server.csr"
    nats.mkdir(parents=True, exist_ok=True)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        *("req", "-x509", *curve, "-days", DAYS, "-subj", "/CN=Headrace"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-keyout", key, "-out", authority),
    )
    names = ",".join(f"DNS:{host}" for host in (*hosts, "localhost")) + ",IP:127.0.0.1"
    openssl(
        *("req", *curve, "-subj", "/CN=nats", "-addext", f"subjectAltName={names}"),
        *("-keyout", nats / "server.key", "-out", server),
    )
    openssl(
        *("x509", "-req", "-days", DAYS, "-in", server, "-CA", authority, "-CAkey", key),
        *("-CAcreateserial", "-copy_extensions", "copy", "-out", nats / "server.crt"),
    )
    for role in ROLES:
        (folder / role).mkdir(exist_ok=True)
        (folder / role / "ca.crt").write_bytes(authority.read_bytes())
    # Nobody signs a second certificate with it: to renew, remove the volumes' files and start anew.
    for path in (key, server, nats / "ca.srl"):
        path.unlink(missing_ok=True)


def openssl(*arguments: str | Path) -> None:
    """Run openssl. Raises `SystemExit` with what it said."""
    ran = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, timeout=60)
    if ran.returncode:
        sys.exit(f"error: openssl {arguments[0]}: {ran.stderr.decode(errors='replace').strip()}")


def login(path: Path) -> str:
    """Write the seed of a new user key; return its public key."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(seed) + b"\n")
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


def accounts(public: dict[str, str]) -> str:
    """Return the accounts for nats-server: who may log in."""
    users = "\n".join(f'      {{ nkey: "{public[role]}" }}  # {role}' for role in ROLES)
    return f"""accounts {{
  HEADRACE {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
  SYS {{
    users: [ {{ nkey: "{public["system"]}" }} ]
  }}
}}
system_account: SYS
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
