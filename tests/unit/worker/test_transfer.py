"""`file/transfer` against a real S3-compatible server."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin.transfer import Place, place_of
from headrace.worker.handlers import HandlerError
from support.storage import Storage, serving
from support.worker_owner import make_task, output_of


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with serving("backups", "copies") as found:
        yield found


async def move(bench: Any, storage: Storage, number: int, **inputs: Any) -> Any:
    task = make_task(f"default/{number}", uses="file/transfer", inputs=storage.access | inputs)
    return await bench.run_one(task)


async def test_there_and_back(bench: Any, storage: Storage, tmp_path: Path) -> None:
    data = bytes(range(256)) * 80_000
    (tmp_path / "dump.sql").write_bytes(data)
    sent = await move(
        bench,
        storage,
        1,
        source=str(tmp_path / "dump.sql"),
        destination="s3://backups/{year}/{run}-{name}",
    )
    assert sent.error is None
    stored = output_of(sent)
    assert stored["size"] == len(data)
    assert stored["destination"].startswith("s3://backups/20")
    assert stored["destination"].endswith("/1-dump.sql")
    got = output_of(
        await move(
            bench,
            storage,
            2,
            source=stored["destination"],
            destination=f"{tmp_path}/back/",
        )
    )
    assert got["path"] == str(tmp_path / "back" / "1-dump.sql")
    assert Path(got["path"]).read_bytes() == data
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["1-dump.sql"]


async def test_within_the_storage(bench: Any, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = "s3://backups/a"
    assert (
        await move(bench, storage, 1, source=str(tmp_path / "a"), destination=first)
    ).error is None
    for number, target in enumerate(("s3://backups/b", "s3://copies/c")):
        done = await move(bench, storage, 2 + number, source=first, destination=target)
        assert output_of(done) == {"source": first, "destination": target, "size": 1}
        refused = await move(
            bench, storage, 10 + number, source=first, destination=target, overwrite=False
        )
        assert (refused.error.type, refused.error.retryable) == ("exists", False)


async def test_what_is_not_there_or_not_allowed(
    bench: Any, storage: Storage, tmp_path: Path
) -> None:
    missing = await move(bench, storage, 1, source="s3://backups/none", destination="x")
    assert (missing.error.type, missing.error.retryable) == ("not-found", False)
    missing = await move(bench, storage, 2, source="nothing", destination="s3://backups/x")
    assert (missing.error.type, missing.error.retryable) == ("not-found", False)
    (tmp_path / "folder").mkdir()
    folder = await move(
        bench, storage, 3, source=str(tmp_path / "folder"), destination="s3://backups/x"
    )
    assert folder.error.type == "invalid-input"
    nobody = await move(
        bench,
        storage,
        4,
        source="s3://backups/none",
        destination="x",
        endpoint="http://127.0.0.1:9",
        timeout="200ms",
    )
    assert (nobody.error.type, nobody.error.retryable) == ("storage", True)
    assert storage.secret not in nobody.error.message


async def test_without_the_library(
    bench: Any, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "obstore":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    result = await move(bench, storage, 1, source="s3://backups/a", destination="x")
    assert result.status == ResultStatus.FAILED
    assert (result.error.type, result.error.retryable) == ("not-installed", False)
    assert "headrace[s3]" in result.error.message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a/b", Place("", "a/b")),
        ("a/", Place("", "a/n")),
        ("file:///a", Place("", "/a")),
        ("s3://b/k/", Place("b", "k/n")),
        ("S3://b/k", Place("b", "k")),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert place_of(text, "n") == place


@pytest.mark.parametrize("text", ["gs://b/k", "s3://b", "s3:///k", "http://h/x"])
def test_no_places(text: str) -> None:
    with pytest.raises(HandlerError):
        place_of(text)
