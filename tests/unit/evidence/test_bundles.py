"""What a bundle says, and what `check` makes of one that was changed."""

from __future__ import annotations

import base64
import copy
import hashlib
import json

import msgspec
import pytest

from headrace.errors import InvalidConfig, InvalidRequest
from headrace.events import StepCompleted
from headrace.evidence import Signer, check, differences, load_public_key
from headrace.messages import Seal
from support.bundles import exported, forged, rewritten, sealed, signer


@pytest.fixture(scope="module")
def text() -> bytes:
    return exported()


def shown(bundle: dict) -> bytes:
    """Write a changed bundle as an export would."""
    raw = msgspec.json.encode(bundle, order="sorted")
    return msgspec.json.format(raw, indent=1) + b"\n"


def where(text: bytes, **options: str) -> list[str]:
    return [found.where for found in check(text, **options).findings]


def test_it_says_what_was_read_called_and_decided(text: bytes) -> None:
    verdict = check(text)
    assert verdict.findings == []
    assert (verdict.run, verdict.key, verdict.sealed) == ("default/decide-1", "", False)
    bundle = json.loads(text)
    read, decide = bundle["steps"]
    (only,) = read["attempts"]
    assert (read["uses"], only["outcome"], only["version"]) == ("test/read", "completed", "1.1")
    assert only["inputs"] == hashlib.sha256(msgspec.msgpack.encode({"amount": 7})).hexdigest()
    assert only["evidence"] == {"sources": ["crm/7"]}
    assert read["output"] == hashlib.sha256(msgspec.msgpack.encode({"score": 3.5})).hexdigest()
    first, second = decide["attempts"]
    assert (first["outcome"], first["error"]["type"]) == ("failed", "flaky")
    assert first["inputs"] == second["inputs"] != only["inputs"]
    assert second["evidence"] == {"model": "m-1", "parameters": {"temperature": 0.0}}
    kinds = [bundle["events"][number - 1]["type"] for number in second["events"]]
    assert kinds == ["StepScheduled", "StepCompleted"]
    assert second["worker"]


def test_a_changed_event_is_named(text: bytes) -> None:
    bundle = json.loads(text)
    at = next(n for n, e in enumerate(bundle["events"]) if e["type"] == "StepCompleted")
    bundle["events"][at]["data"]["output"]["score"] = 99
    assert where(shown(bundle))[0] == f"events[{at}] (number {at + 1})"


@pytest.mark.parametrize("again", [False, True])
def test_events_dropped_moved_and_put_in(text: bytes, again: bool) -> None:
    for change in (
        lambda events: events.pop(3),
        lambda events: events.insert(3, copy.deepcopy(events[2])),
        lambda events: events.insert(2, events.pop(4)),
        lambda events: events.pop(),
    ):
        bundle = json.loads(text)
        change(bundle["events"])
        if again:
            for number, event in enumerate(bundle["events"], 1):
                event["number"] = number
        assert any(place.startswith("events") for place in where(shown(bundle)))


def test_another_way_to_write_the_same_is_named(text: bytes) -> None:
    found = check(json.dumps(json.loads(text)).encode()).findings
    assert found[0].where.startswith("byte ")
    assert where(text + b"\n")[0].startswith(f"byte {len(text)}")


def test_what_is_no_bundle(text: bytes) -> None:
    assert where(b"{") == ["file"]
    assert where(b"[]") == ["format"]
    bundle = json.loads(text)
    del bundle["head"]["link"]
    assert where(shown(bundle)) == ["file"]
    assert where(shown(json.loads(text) | {"more": 1})) == ["file"]


def change_score(event: object) -> object:
    if isinstance(event, StepCompleted) and b"score" in bytes(event.output):
        output = msgspec.Raw(msgspec.msgpack.encode({"score": 99.0}))
        return msgspec.structs.replace(event, output=output)
    return event


def test_only_a_key_or_the_cluster_tells_a_forgery_that_fits_together(text: bytes) -> None:
    """What decision 54 says: without a signature, a bundle written anew is whole."""
    other, cluster = forged(text, change_score), signer(1)
    assert b"99.0" in other
    assert where(other) == []
    # The cluster's key was asked for, and the forger has none, or another one.
    assert where(other, key=cluster.key) == ["export.key"]
    assert where(rewritten(other, by=signer(2)), key=cluster.key) == ["export.key"]
    whole = rewritten(text, by=cluster)
    assert where(whole, key=cluster.key) == []
    assert check(whole).key == cluster.key
    # Or it is compared with what the cluster says.
    (found,) = differences(other, text)
    assert found.what == "is another one in the run"
    assert differences(text, text) == []


def test_a_signature_is_of_this_text_alone(text: bytes) -> None:
    whole = rewritten(text, by=signer(1))
    bundle, other = json.loads(whole), json.loads(rewritten(text, by=signer(2)))
    for name in ("signature", "key"):
        mixed = copy.deepcopy(bundle)
        mixed["export"][name] = other["export"][name]
        assert where(shown(mixed))
    bundle["export"]["signature"] = ""
    assert where(shown(bundle)) == ["export.signature"]


def test_a_seal_is_of_this_history(text: bytes) -> None:
    by = signer(1)
    whole = sealed(text, by=by)
    assert check(whole, key=by.key).findings == []
    assert check(whole).sealed
    # Changed in the archive since: who exports it has the seal of what it was.
    seal = msgspec.convert(json.loads(whole)["seal"], Seal)
    tampered = rewritten(forged(text, change_score), by=by, seal=seal)
    assert where(tampered, key=by.key) == ["seal"]
    unsigned = json.loads(whole)
    unsigned["seal"]["signature"] = ""
    assert "seal.signature" in where(shown(unsigned))


def test_keys_are_pem_files(tmp_path) -> None:
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(
        private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    (tmp_path / "pub.pem").write_bytes(
        private.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    loaded = Signer.load(tmp_path / "key.pem", setting="coordinator.evidence_key_file")
    assert loaded.key == load_public_key(tmp_path / "pub.pem")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(InvalidConfig, match=r"coordinator\.evidence_key_file"):
        Signer.load(tmp_path / "bad.pem", setting="coordinator.evidence_key_file")
    with pytest.raises(InvalidRequest, match=r"bad\.pem"):
        load_public_key(tmp_path / "bad.pem")


def test_another_run_is_no_older_one(text: bytes) -> None:
    bundle = json.loads(text)
    bundle["run"]["id"] = "other"
    assert differences(shown(bundle), text)[0].where == "run.id"
    assert base64.b64decode(json.loads(text)["history"][0])
