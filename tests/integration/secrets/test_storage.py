"""A run that shows its secrets in every way it can: nothing that is stored or printed has them."""

from __future__ import annotations

import base64
import json
import lzma
import sqlite3
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import Dev, Machine, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TOKEN = "tok-9f83jKx/+qP0=\"z'w&v"
KEY = "-----BEGIN KEY-----\nQm9zc3kgY2FwcyBhcmUg\nbm90IHF1aWV0IHdvcmRz\n-----END KEY-----"

LEAKY = r"""
name: leaky
jobs:
  show:
    runs-on: linux
    env: {IN_JOB: "${{ secrets.TOKEN }}"}
    outputs: {out: "${{ steps.all.outputs.plain }}"}
    steps:
      - id: all
        name: Show all
        env: {TOKEN: "${{ secrets.TOKEN }}", KEY: "${{ secrets.KEY }}"}
        run: |
          printf '%s\n' "$TOKEN" "$IN_JOB"
          printf '%s\n' "$KEY" >&2
          printf '%s' "user:$TOKEN" | base64 -w0; echo
          printf '%s' "$KEY" | base64
          python3 - <<'END'
          import json, os, urllib.parse
          token, key = os.environ["TOKEN"], os.environ["KEY"]
          print(json.dumps({"t": token, "k": key}))
          print(urllib.parse.quote(token, safe=""), repr(key))
          print("::notice title=x::" + token)
          with open(os.environ["GITHUB_OUTPUT"], "a") as file:
              file.write(f"plain={token}\njson={json.dumps([token])}\n")
              file.write("key<<EOF\n" + key + "\nEOF\n")
              file.write("long=" + (token + " ") * 5000 + "\n")
          with open(os.environ["GITHUB_ENV"], "a") as file:
              file.write("LATER<<EOF\n" + key + "\nEOF\n")
          with open(os.environ["GITHUB_STEP_SUMMARY"], "a") as file:
              file.write("# " + token)
          END
      - run: printf '%s' "$LATER"
      - id: noop
        uses: noop
        with: {a: "${{ secrets.TOKEN }}", b: {c: "${{ secrets.KEY }}"}, d: "${{ toJSON(secrets) }}"}
      - id: fails
        env: {TOKEN: "${{ secrets.TOKEN }}"}
        run: |
          echo "failed with $TOKEN" >&2
          exit 3
      - id: tells
        if: always()
        uses: file/read
        with: {path: "/nonesuch/${{ secrets.TOKEN }}"}
"""


def forms() -> Iterator[bytes]:
    """Yield what must be found nowhere: made without the code under test."""
    for secret in (TOKEN, KEY):
        lines = [line for line in secret.splitlines() if not line.startswith("-----")]
        yield from (line.encode() for line in lines)
        yield json.dumps(secret)[1:-1].encode()
        yield urllib.parse.quote(secret, safe="").encode()
        data = secret.encode()
        for skip in range(3):
            # The middle of the value in base64, whatever stands before it.
            part = data[skip : skip + (len(data) - skip) // 3 * 3]
            yield base64.b64encode(part)[4:20]


def leaks_in(data: bytes) -> list[str]:
    views = [data]
    for marker, unpack in ((b"\x78\x9c", zlib.decompressobj), (b"\xfd7zXZ", lzma.LZMADecompressor)):
        at = data.find(marker)
        while at >= 0 and len(views) < 200:
            try:
                views.append(unpack().decompress(data[at:]))
            except (zlib.error, lzma.LZMAError, EOFError):
                pass
            at = data.find(marker, at + 1)
    return [form.decode() for form in forms() if any(form in view for view in views)]


def leaks_below(folder: Path) -> dict[str, list[str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, f"nothing below {folder}"
    found = {str(path): leaks_in(path.read_bytes()) for path in files}
    return {path: leaks for path, leaks in found.items() if leaks}


def test_the_check_finds_what_is_there() -> None:
    assert leaks_in(b"x" + TOKEN.encode()) != []
    assert leaks_in(base64.b64encode(b"ab" + TOKEN.encode())) != []
    assert leaks_in(zlib.compress(KEY.encode())) != []
    assert leaks_in(b"nothing") == []


ENV = {"HEADRACE_SECRET_TOKEN": TOKEN, "HEADRACE_SECRET_KEY": KEY}


async def test_embedded_with_everything_on_disk(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    (tmp_path / "leaky.yaml").write_text(LEAKY)
    stored = tmp_path / "stored"
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "TOKEN").write_text(TOKEN)
    (secrets / "KEY").write_text(KEY)
    ran = await machine.flowctl(
        "run",
        str(tmp_path / "leaky.yaml"),
        *("--dir", str(stored), "--secrets", str(secrets), "-o", "json"),
        within_s=60,
    )
    assert ran.code == 1, ran.err
    steps = {step["path"]: step for step in ran.json["steps"]}
    assert steps["show/all"]["state"] == "COMPLETED", steps["show/all"]["error"]
    assert steps["show/all"]["outputs"]["plain"] == "***"
    assert steps["show/fails"]["error"].endswith("failed with ***")
    assert leaks_in(ran.out.encode() + ran.err.encode()) == []
    assert leaks_below(stored) == {}
    for path in stored.rglob("*.db"):
        # A database keeps deleted pages; what is left in its rows is above.
        assert sqlite3.connect(path).execute("pragma integrity_check").fetchone() == ("ok",)


async def test_a_server_with_everything_on_disk(tmp_path: Path) -> None:
    (tmp_path / "leaky.yaml").write_text(LEAKY)
    async with running(Dev(tmp_path / "dev", env=ENV)) as dev:
        ran = await dev.flowctl(
            *("submit", str(tmp_path / "leaky.yaml"), "--id", "leaky", "--wait", "-o", "json"),
            within_s=60,
        )
        assert ran.code == 1, ran.err
        steps = {step["path"]: step for step in ran.json["steps"]}
        assert steps["show/all"]["outputs"]["plain"] == "***"
        assert leaks_in(ran.out.encode() + ran.err.encode()) == []
        for command in ("get", "history", "logs", "explain"):
            told = await dev.flowctl(command, "leaky", "-o", "json")
            assert told.code == 0, told.err
            assert "leaky" in told.out or "***" in told.out
            assert leaks_in(told.out.encode()) == [], command
    assert leaks_below(dev.folder) == {}
