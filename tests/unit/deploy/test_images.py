"""The script that builds the images, with stand-ins for the programs that it calls."""

import os
import re
import shutil
import subprocess

from support.deploykit import DEPLOY

STAND_INS = {
    # No image is there yet; what is built is written down.
    "docker": '[ "$1 $2" != "image inspect" ] && { cat >/dev/null; echo "$@" >> "$CALLS"; }',
    "debootstrap": 'for root; do :; done; touch "$root/made"',
    "python3": ":",
}


def test_local_images_are_built_without_a_registry(tmp_path):
    folder = tmp_path / "deploy" / "images"
    shutil.copytree(DEPLOY / "images", folder, ignore=shutil.ignore_patterns("*.whl"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TAG": "t"}
    env |= {"TMPDIR": str(scratch), "CALLS": str(tmp_path / "calls")}
    env.pop("PYTHON", None)
    ran = subprocess.run(
        [folder / "build.sh", "--local"],
        capture_output=True,
        text=True,
        env=env,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    images = [f"headrace/{name}:t" for name in ("coordinator", "worker", "flowctl", "nats")]
    assert ran.stdout.split() == images
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "import - headrace/base:bookworm"
    assert all("PYTHON_IMAGE=headrace/base:bookworm" in call for call in calls[1:])
    assert list(scratch.iterdir()) == []


def test_images_have_what_their_environment_may_ask_for():
    """Archives in a database, logins by key, large values in a bucket, and spans."""
    built = (DEPLOY / "images" / "Dockerfile").read_text()
    coordinator = re.search(r"AS coordinator-env.*?\[([a-z0-9,]+)\]", built, re.DOTALL)[1]
    worker = re.search(r"WORKER_EXTRAS=([a-z0-9,]+)", built)[1]
    assert {"coordinator", "nkeys", "otel", "postgres"} <= {*coordinator.split(",")}
    assert {"worker", "nkeys", "otel", "s3"} <= {*worker.split(",")}
    # Where no index is reached, what is installed is what was fetched.
    fetched = re.search(r"'\.\[([a-z0-9,]+)\]'", (DEPLOY / "images" / "build.sh").read_text())[1]
    assert {*fetched.split(",")} == {*coordinator.split(","), *worker.split(",")}
