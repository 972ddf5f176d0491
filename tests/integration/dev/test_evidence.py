"""`flowctl evidence` on a cluster: live runs and archived ones, and archives that were changed."""

from __future__ import annotations

import json
import sqlite3

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.coordinator.runtime.archiver import pack, unpack
from support.cluster import Dev, running, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ASKS = """\
name: asks
jobs:
  main:
    runs-on: linux
    steps:
      - {id: think, run: 'echo "answer=42" >> "$GITHUB_OUTPUT"'}
      - {id: ask, approval: {signal: decision, timeout: 1h}}
      - {id: act, run: 'echo "${{ steps.think.outputs.answer }}"'}
"""


@pytest.fixture
async def dev(tmp_path):
    private = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(
        private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    public = private.public_key()
    (tmp_path / "pub.pem").write_bytes(
        public.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    key = {"HEADRACE_CFG_COORDINATOR__EVIDENCE_KEY_FILE": str(tmp_path / "key.pem")}
    async with running(Dev(tmp_path / "dev", env=key)) as made:
        yield made


async def test_a_run_from_its_beginning_to_a_forged_archive(dev, tmp_path):
    flow, file, pub = tmp_path / "asks.yaml", tmp_path / "run.json", str(tmp_path / "pub.pem")
    flow.write_text(ASKS)

    async def export() -> dict:
        ran = await dev.flowctl("evidence", "r1", "-o", "json")
        assert ran.code == 0, ran.err
        file.write_text(ran.out)
        return ran.json

    async def verify(*more: str) -> tuple[int, dict]:
        ran = await dev.flowctl("evidence", "verify", str(file), *more, "-o", "json")
        assert "Traceback" not in ran.err
        return ran.code, ran.json

    assert (await dev.flowctl("submit", str(flow), "--id", "r1")).code == 0

    async def waits():
        return "WAITING" in (await dev.flowctl("get", "r1", "-o", "json")).json["conditions"]

    await wait_for(waits, within_s=20, what="the approval to be asked for")
    live = await export()
    assert live["run"]["state"] == "RUNNING"
    assert live["seal"] is None
    code, said = await verify("--key", pub, "--with-cluster")
    assert (code, said["whole"], said["run"]) == (0, True, "default/r1")
    early = file.read_text()

    yes = '{"approved": true}'
    assert (await dev.flowctl("signal", "r1", "decision", "--payload", yes)).code == 0
    await dev.flowctl("get", "r1", "--watch")

    async def archived():
        return (await dev.flowctl("get", "r1", "-o", "json")).json.get("archived")

    await wait_for(archived, within_s=20, what="the run to be archived")
    whole = await export()
    assert whole["seal"]["key"] == said["key"]
    assert [step["path"] for step in whole["steps"]] == ["main/think", "main/act"]
    assert all(attempt["inputs"] for step in whole["steps"] for attempt in step["attempts"])
    assert await verify("--key", pub) == (0, said | {"sealed": True, "events": 14} | {
        "events": whole["head"]["events"]
    })  # fmt: skip
    # What was exported while it lived is the beginning of what it became.
    file.write_text(early)
    assert (await verify("--with-cluster"))[0] == 0

    file.write_text(early.replace('"answer": "42"', '"answer": "43"'))
    code, said = await verify()
    assert (code, said["whole"]) == (1, False)
    assert said["findings"][0]["where"].startswith("events[")
    shown = await dev.flowctl("evidence", "verify", str(file))
    assert shown.code == 1
    assert "was changed" in shown.out

    # Somebody with the archive's file changes the history: whoever exports it sees.
    (path,) = dev.folder.rglob("archive.db")
    with sqlite3.connect(path) as db:
        ((first, data),) = db.execute("SELECT first, data FROM segments WHERE run = 'r1'")
        forged = pack([chunk.replace(b"\xa242", b"\xa243") for chunk in unpack(data)])
        assert forged != data
        db.execute("UPDATE segments SET data = ? WHERE run = 'r1' AND first = ?", (forged, first))
    db.close()
    await export()
    code, said = await verify("--key", pub)
    assert code == 1
    assert "seal" in {found["where"] for found in said["findings"]}


async def test_what_it_says_to_people(shared_dev, tmp_path):
    flow = tmp_path / "one.yaml"
    flow.write_text(
        ASKS.replace("      - {id: ask, approval: {signal: decision, timeout: 1h}}\n", "")
    )
    ran = await shared_dev.flowctl("submit", str(flow), "--wait", "-o", "json")
    run = json.loads(ran.out)["id"]
    ran = await shared_dev.flowctl("evidence", run)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split()[:3] == ["PATH", "USES", "ATTEMPT"]
    assert "main/think" in ran.out
    assert "the last link of the chain is" in ran.err
    missing = await shared_dev.flowctl("evidence", "no-such-run")
    assert missing.code == 4
    assert (await shared_dev.flowctl("evidence", run, str(flow))).code == 3
