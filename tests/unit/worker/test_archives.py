"""`file/archive` and `file/extract`, and archives that mean harm."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.worker.builtin import archives
from headrace.worker.builtin.archives import format_of, matching, pack, unpack
from headrace.worker.handlers import HandlerError
from support.worker_owner import make_task, output_of

FORMATS = ("out.tar.gz", "out.tgz", "out.tar", "out.zip")


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "out" / "deep").mkdir(parents=True)
    (folder / "out" / "a.txt").write_text("a" * 1_000)
    (folder / "out" / "deep" / "b.sh").write_text("#!/bin/sh\n")
    (folder / "out" / "deep" / "b.sh").chmod(0o755)
    (folder / "other.log").write_text("log")
    return folder


async def do(bench: Any, uses: str, number: int, **inputs: Any) -> Any:
    return await bench.run_one(make_task(f"default/{number}", uses=uses, inputs=inputs))


@pytest.mark.parametrize("name", FORMATS)
async def test_there_and_back(bench: Any, source: Path, tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    packed = output_of(
        await do(
            bench,
            "file/archive",
            1,
            source=["out/**", "!out/none"],
            destination=str(archive),
            base=str(source),
        )
    )
    assert packed == {"path": str(archive), "size": archive.stat().st_size, "files": 2}
    folder = tmp_path / "new"
    done = output_of(
        await do(bench, "file/extract", 2, source=str(archive), destination=str(folder))
    )
    assert done == {"path": str(folder), "size": 1_010, "files": 2}
    assert tree(folder) == {"out/a.txt": "a" * 1_000, "out/deep/b.sh": "#!/bin/sh\n"}
    assert os.access(folder / "out/deep/b.sh", os.X_OK)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


async def test_nothing_to_pack(bench: Any, tmp_path: Path) -> None:
    result = await do(bench, "file/archive", 1, source="none/*", destination=f"{tmp_path}/x.zip")
    assert (result.error.type, result.error.retryable) == ("not-found", False)
    result = await do(bench, "file/archive", 2, source="none", destination=f"{tmp_path}/x.rar")
    assert result.error.type == "invalid-input"
    result = await do(bench, "file/extract", 3, source="none.zip")
    assert (result.error.type, result.error.retryable) == ("not-found", False)


def test_patterns(source: Path) -> None:
    def names(*patterns: str) -> list[str]:
        return [path.relative_to(source).as_posix() for path in matching(source, patterns)]

    assert names("out") == ["out/a.txt", "out/deep/b.sh"]
    assert names("**/*.txt", "other.log") == ["other.log", "out/a.txt"]
    assert names(".", "!out/deep") == ["other.log", "out/a.txt"]
    assert names("none") == []
    (source / "loop").symlink_to(source)
    assert names("loop") == []
    with pytest.raises(HandlerError, match="over 1 files"):
        matching(source, ["out"], files_max=1)
    with pytest.raises(HandlerError, match="holds"):
        matching(source, ["../*"])


def test_a_file_from_elsewhere_has_no_name(source: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(HandlerError, match="does not lie below"):
        pack([tmp_path / "x"], tmp_path / "a.zip", "zip", base=source)
    assert not (tmp_path / "a.zip").exists()


def test_what_exists_is_replaced_and_the_rest_stays(source: Path, tmp_path: Path) -> None:
    pack(matching(source, ["out"]), tmp_path / "a.tar", "tar", base=source)
    folder = tmp_path / "new"
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "a.txt").write_text("old")
    (folder / "out" / "mine").write_text("mine")
    unpack(tmp_path / "a.tar", folder, "tar")
    assert tree(folder)["out/mine"] == "mine"
    assert tree(folder)["out/a.txt"] == "a" * 1_000


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    return info


def zip_of(name: str, content: bytes = b"x", mode: int = 0) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        file.writestr(info, content)
    return data.getvalue()


EVIL: dict[str, tuple[str, Callable[[], bytes]]] = {
    "climbs": ("tar", lambda: tar_of((member("../evil"), b"x"))),
    "climbs inside": ("tar", lambda: tar_of((member("a/../../evil"), b"x"))),
    "link to /": ("tar", lambda: tar_of((member("l", tarfile.SYMTYPE, "/etc"), b""))),
    "link out": ("tar", lambda: tar_of((member("l", tarfile.SYMTYPE, "../.."), b""))),
    "through a link": (
        "tar",
        lambda: tar_of(
            (member("l", tarfile.SYMTYPE, ".."), b""),
            (member("l/evil"), b"x"),
        ),
    ),
    "hard link out": ("tar", lambda: tar_of((member("l", tarfile.LNKTYPE, "../evil"), b""))),
    "device": ("tar", lambda: tar_of((member("d", tarfile.CHRTYPE), b""))),
    "fifo": ("tar", lambda: tar_of((member("d", tarfile.FIFOTYPE), b""))),
    "zip climbs": ("zip", lambda: zip_of("../evil")),
    "zip absolute": ("zip", lambda: zip_of("/evil")),
    "zip backslash": ("zip", lambda: zip_of("..\\evil")),
    "zip drive": ("zip", lambda: zip_of("C:evil")),
    "zip link": ("zip", lambda: zip_of("l", b"/etc", stat.S_IFLNK | 0o777)),
}


@pytest.mark.parametrize("name", sorted(EVIL))
def test_archives_that_mean_harm(tmp_path: Path, name: str) -> None:
    form, make = EVIL[name]
    archive = tmp_path / f"evil.{form}"
    archive.write_bytes(make())
    folder = tmp_path / "box" / "inner"
    folder.mkdir(parents=True)
    with pytest.raises(HandlerError) as caught:
        unpack(archive, folder, form)  # type: ignore[arg-type]
    assert (caught.value.type, caught.value.retryable) == ("unsafe-archive", False)
    assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box", f"evil.{form}"]


def test_absolute_names_of_tar_lose_their_slash(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of((member("/inside"), b"x")))
    unpack(tmp_path / "a.tar", tmp_path / "new", "tar")
    assert tree(tmp_path / "new") == {"inside": "x"}


def test_links_inside_stay(tmp_path: Path) -> None:
    data = tar_of((member("d/a"), b"x"), (member("d/l", tarfile.SYMTYPE, "a"), b""))
    (tmp_path / "a.tar").write_bytes(data)
    unpack(tmp_path / "a.tar", tmp_path / "new", "tar")
    assert (tmp_path / "new/d/l").is_symlink()
    assert (tmp_path / "new/d/l").read_text() == "x"


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_a_bomb(tmp_path: Path, form: Any) -> None:
    (tmp_path / "zeros").write_bytes(b"\0" * 5_000_000)
    archive = tmp_path / f"bomb.{form}"
    pack([tmp_path / "zeros"], archive, form, base=tmp_path)
    assert archive.stat().st_size < 50_000
    with pytest.raises(HandlerError) as caught:
        unpack(archive, tmp_path / "new", form, bytes_max=1_000_000)
    assert caught.value.type == "too-large"
    assert list((tmp_path / "new").iterdir()) == []


def test_too_many_files(tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    archive.write_bytes(tar_of(*((member(f"f{n}"), b"") for n in range(20))))
    with pytest.raises(HandlerError, match="over 10 files"):
        unpack(archive, tmp_path / "new", "tar", files_max=10)


def test_an_archive_that_grows_too_large(source: Path, tmp_path: Path) -> None:
    (source / "noise").write_bytes(os.urandom(100_000))
    with pytest.raises(HandlerError) as caught:
        pack(matching(source, ["noise"]), tmp_path / "a.tgz", "tar.gz", base=source, bytes_max=10)
    assert caught.value.type == "too-large"
    assert not (tmp_path / "a.tgz").exists()


@pytest.mark.parametrize("form", ["tar.gz", "tar", "zip"])
@pytest.mark.parametrize("data", [b"", b"nonsense", os.urandom(600)])
def test_no_archive_at_all(tmp_path: Path, form: Any, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(HandlerError) as caught:
        unpack(tmp_path / "x", tmp_path / "new", form)
    assert caught.value.type == "invalid-archive"


def test_a_stop_is_heard(source: Path, tmp_path: Path) -> None:
    files = matching(source, ["."])
    with pytest.raises(HandlerError, match="stopped"):
        pack(files, tmp_path / "a.zip", "zip", base=source, stop=lambda: True)
    pack(files, tmp_path / "a.zip", "zip", base=source)
    with pytest.raises(HandlerError, match="stopped"):
        unpack(tmp_path / "a.zip", tmp_path / "new", "zip", stop=lambda: True)


def test_formats() -> None:
    assert [format_of(name) for name in FORMATS] == ["tar.gz", "tar.gz", "tar", "zip"]
    assert format_of("x.bin", "zip") == "zip"
    assert archives.FILES_MAX == 100_000
