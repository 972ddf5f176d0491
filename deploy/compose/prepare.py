"""Makes what must not stand in a file: keys, certificates and logins of a Compose project.

Runs once, in the container `prepare`, before all others; what exists is left alone. Each role has a
folder (a volume of its own), so that a worker never sees a coordinator's key::

    nats/         ca.crt, server.crt, server.key, accounts.conf (public keys only)
    coordinator/  ca.crt, user.nk
    worker-NAME/  ca.crt, user.nk
    client/       ca.crt, user.nk; operator.nk
    logins/       what `flowctl cluster credentials` keeps, to make more of them

Usage: prepare.py FOLDER --host NAME… --pool NAME=LABEL,LABEL…
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

OWNER = 10001
"""User and group of all images."""
DAYS = "3650"
LOGINS = "logins"


def main(arguments: list[str]) -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", action="append", required=True)
    parser.add_argument("--pool", action="append", required=True)
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    pools = dict(pool.split("=", 1) for pool in given.pool)
    roles = {"coordinator": "coordinator-all.nk", "client": "client-all.nk"}
    roles |= {f"worker-{name}": f"pool-{name}.nk" for name in pools}
    for name in ("nats", LOGINS, *roles):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not (folder / "nats" / "server.crt").exists():
        certificates(folder / "nats", given.host)
        print("made certificates")
    logins(folder / LOGINS, pools)
    shutil.copyfile(folder / LOGINS / "accounts.conf", folder / "nats" / "accounts.conf")
    for role, file in roles.items():
        shutil.copyfile(folder / LOGINS / file, folder / role / "user.nk")
        shutil.copyfile(folder / "nats" / "ca.crt", folder / role / "ca.crt")
    shutil.copyfile(folder / LOGINS / "operator-all.nk", folder / "client" / "operator.nk")
    for volume in folder.iterdir():
        os.chown(volume, OWNER, OWNER)
        volume.chmod(0o700)
        # Others hold the broker's data: only the volume itself is given away.
        if volume.name in ("nats", LOGINS, *roles):
            for path in volume.iterdir():
                os.chown(path, OWNER, OWNER)
                path.chmod(0o600)


def certificates(folder: Path, hosts: list[str]) -> None:
    """Make an authority, and with it one certificate for all servers."""
    authority, key, request = folder / "ca.crt", folder / "ca.key", folder / "server.csr"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(
        *("openssl", "req", "-x509", *curve, "-days", DAYS, "-subj", "/CN=Headrace"),
        *("-addext", "keyUsage=critical,keyCertSign", "-keyout", key, "-out", authority),
    )
    names = ",".join(f"DNS:{host}" for host in (*hosts, "localhost")) + ",IP:127.0.0.1"
    run(
        *("openssl", "req", *curve, "-subj", "/CN=nats", "-addext", f"subjectAltName={names}"),
        *("-keyout", folder / "server.key", "-out", request),
    )
    run(
        *("openssl", "x509", "-req", "-days", DAYS, "-in", request, "-CA", authority),
        *("-CAkey", key, "-CAcreateserial", "-copy_extensions", "copy"),
        *("-out", folder / "server.crt.new"),
    )
    # Nobody signs a second certificate with it.
    for path in (key, request, folder / "ca.srl"):
        path.unlink(missing_ok=True)
    # Last: it says that the rest is whole.
    (folder / "server.crt.new").replace(folder / "server.crt")


def logins(folder: Path, pools: dict[str, str]) -> None:
    """Make a login for each role; those that are there stay."""
    command = ("flowctl", "cluster", "credentials", "--dir", folder)
    run(*command, *("--coordinator", "all", "--operator", "all", "--client", "all"))
    for name, labels in pools.items():
        offered = [part for label in labels.split(",") for part in ("-c", label)]
        run(*command, "--pool", name, *offered)


def run(*command: str | Path) -> None:
    """Run a program. Raises `SystemExit` with what it said."""
    ran = subprocess.run([str(word) for word in command], capture_output=True, timeout=60)
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip()
        sys.exit(f"error: {' '.join(map(str, command[:2]))}: {said}")


if __name__ == "__main__":
    main(sys.argv[1:])
