"""The file of a backup: whole, or refused."""

import json
import tarfile

import msgspec
import pytest

from headrace.coordinator.backup.file import (
    FORMAT,
    MANIFEST,
    BackupReader,
    BackupWriter,
    BrokenBackup,
    Head,
    Manifest,
)

HEAD = Head(format=FORMAT, release="1.2.3", feature_level=2)


def manifest(head, parts):
    return Manifest(
        head=head,
        id="b1",
        time_ms=1,
        cluster="then",
        release="1.2.3",
        layout={"journal": 1, "snapshot": 0, "memory": 0},
        archive="sqlite",
        shards=[],
        counts={},
        parts=parts,
    )


def written(path, *, head=HEAD, items=3):
    with BackupWriter(path, head) as out:
        out.add("shards/0/snapshot", b"the state")
        for number in range(items):
            out.gather("blobs", (f"name-{number}", bytes(1_000)), 1_000)
        out.finish(manifest)
    return path


def opened(path, level=2):
    return BackupReader.open(path, feature_level=level)


def test_a_file_gives_back_what_went_in(tmp_path):
    reader = opened(written(tmp_path / "b"))
    assert dict(reader.parts("shards/")) == {"shards/0/snapshot": b"the state"}
    assert [name for name, _ in reader.items("blobs")] == ["name-0", "name-1", "name-2"]
    assert reader.manifest.head == HEAD


def test_small_things_share_parts_and_large_ones_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.coordinator.backup.file.PART_BYTES", 2_000)
    reader = opened(written(tmp_path / "b", items=5))
    assert len(list(reader.parts("blobs/"))) == 3
    assert len(list(reader.items("blobs"))) == 5


def test_nothing_is_left_of_a_backup_that_failed(tmp_path):
    written(tmp_path / "b")
    before = (tmp_path / "b").read_bytes()
    with BackupWriter(tmp_path / "b", HEAD) as out:
        out.add("shards/0/snapshot", b"another")
        # It does not come to `finish`.
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_bytes() == before


def test_the_file_is_its_owners_alone(tmp_path):
    assert written(tmp_path / "b").stat().st_mode & 0o077 == 0


def test_a_torn_file_is_refused_wherever_it_was_torn(tmp_path):
    whole = written(tmp_path / "b").read_bytes()
    end = whole.rindex(MANIFEST.encode())
    torn = tmp_path / "torn"
    # What lies behind the manifest is padding: a file without some of that is whole.
    for length in range(0, end + 600, 97):
        torn.write_bytes(whole[:length])
        with pytest.raises(BrokenBackup):
            opened(torn)


def test_a_changed_byte_is_found(tmp_path):
    path = written(tmp_path / "b")
    whole = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        places = [(m.name, m.offset_data) for m in tar if m.name != MANIFEST]
    for name, at in places:
        changed = bytearray(whole)
        changed[at + 1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BrokenBackup, match=r"hash differs|head cannot be read"):
            opened(path)
        assert name


def test_a_part_that_was_taken_out_or_put_in_is_found(tmp_path):
    path = written(tmp_path / "b")
    with tarfile.open(path) as tar:
        parts = [(member, tar.extractfile(member).read()) for member in tar]

    def rewrite(wanted):
        import io

        with tarfile.open(path, "w") as tar:
            for member, data in wanted:
                tar.addfile(member, io.BytesIO(data))

    rewrite([part for part in parts if not part[0].name.startswith("blobs")])
    with pytest.raises(BrokenBackup, match="blobs/000000 is missing"):
        opened(path)
    more = tarfile.TarInfo("blobs/000009")
    rewrite([*parts[:-1], (more, b""), parts[-1]])
    with pytest.raises(BrokenBackup, match="does not name: blobs/000009"):
        opened(path)


def test_a_newer_format_is_refused_by_name_and_says_what_to_do(tmp_path):
    newer = msgspec.structs.replace(HEAD, format=FORMAT + 1, release="9.0.0")
    with pytest.raises(BrokenBackup, match=r"has format 2.*use release 9\.0\.0 or a later one"):
        opened(written(tmp_path / "b", head=newer))


def test_a_newer_feature_level_is_refused(tmp_path):
    with pytest.raises(BrokenBackup, match=r"needs feature level 2, this release has 1: use"):
        opened(written(tmp_path / "b"), level=1)


@pytest.mark.parametrize("data", [b"", b"not a tar", json.dumps({"format": 1}).encode() * 200])
def test_what_is_no_backup_is_refused(tmp_path, data):
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(BrokenBackup, match=r"torn|no backup"):
        opened(tmp_path / "b")


def test_fields_of_a_later_release_are_ignored(tmp_path):
    path = tmp_path / "b"
    with BackupWriter(path, HEAD) as out:
        out.finish(lambda head, parts: WithMore(**msgspec.structs.asdict(manifest(head, parts))))
    assert opened(path).manifest.id == "b1"


class WithMore(Manifest, frozen=True, kw_only=True):
    mood: str = "sunny"
