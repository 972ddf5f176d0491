"""Where secrets and variables come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import InvalidConfig
from headrace.worker.handlers import HandlerError
from headrace.worker.hidden import HiddenValues
from headrace.worker.sources import Source, secrets_at, variables_at

ENVIRON = {"HEADRACE_SECRET_A": "a", "HEADRACE_SECRET_B": "variable", "HEADRACE_VAR_V": "v"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_environment() -> None:
    assert secrets_at("", ENVIRON).read() == {"A": "a", "B": "variable"}
    assert variables_at("", ENVIRON).read() == {"V": "v"}
    assert secrets_at("", {"HEADRACE_SECRET_": "x", "OTHER": "y"}).read() == {}


def test_a_folder_goes_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "B").write_text("from file\n")
    (tmp_path / "tls.key").write_text("one\ntwo\n\n")
    (tmp_path / "..data").mkdir()
    (tmp_path / ".hidden").write_text("machinery")
    assert secrets_at(str(tmp_path), ENVIRON).read() == {
        "A": "a",
        "B": "from file",
        "tls.key": "one\ntwo\n",
    }


def test_a_mounted_secret_of_kubernetes_rotates(tmp_path: Path) -> None:
    for number, text in enumerate(("old", "new")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "TOKEN").write_text(text)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "TOKEN").symlink_to("..data/TOKEN")
    clock = Clock()
    source = Source("X_", tmp_path, {}, now_s=clock)
    first = source.read()
    assert first == {"TOKEN": "old"}
    (tmp_path / "..tmp").symlink_to("..1")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert source.read() is first
    clock.now += 2
    assert source.read() == {"TOKEN": "new"}
    second = source.read()
    clock.now += 2
    assert source.read() is second


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    path.write_text("A=1\nKEY<<END\nline\nline 2\nEND\nB=x=y\n")
    assert secrets_at(str(path), {}).read() == {"A": "1", "KEY": "line\nline 2", "B": "x=y"}


def test_what_cannot_be_read_is_named_without_its_content(tmp_path: Path) -> None:
    bad = tmp_path / "bad.env"
    bad.write_text("hunter2hunter2\n")
    for path in (bad, tmp_path / "none"):
        with pytest.raises(InvalidConfig) as caught:
            secrets_at(str(path), {})
        assert str(path) in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.key == "worker.secrets_path"
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "A").write_bytes(b"x" * (64 * 1024 + 1))
    with pytest.raises(InvalidConfig, match="over 65536 bytes"):
        variables_at(str(tmp_path / "big"), {})


class Changing:
    def __init__(self) -> None:
        self.values = {"A": "first-value"}
        self.broken = False

    def read(self) -> dict[str, str]:
        if self.broken:
            raise HandlerError("values-unavailable", "gone")
        return self.values


def test_values_that_were_secrets_stay_hidden() -> None:
    source = Changing()
    hidden = HiddenValues(source)
    first = hidden.masker()
    assert hidden.masker() is first
    source.values = {"A": "second-value"}
    assert hidden.masker().text("first-value second-value") == "*** ***"
    source.broken = True
    assert hidden.masker().text("first-value second-value") == "*** ***"
