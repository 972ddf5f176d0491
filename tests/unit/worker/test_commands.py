from __future__ import annotations

import pytest

from headrace.worker.builtin.commands import (
    BadFile,
    annotation,
    parse_assignments,
    parse_command,
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("::error::boom", ("error", {}, "boom")),
        ("  ::warning file=a.py,line=3::x::y", ("warning", {"file": "a.py", "line": "3"}, "x::y")),
        ("::notice title=A%2CB%3A::50%25%0Amore", ("notice", {"title": "A,B:"}, "50%\nmore")),
        ("::error file=a:b.py::x", ("error", {"file": "a:b.py"}, "x")),
        ("::add-mask::secret", ("add-mask", {}, "secret")),
        ("::group::Title", ("group", {}, "Title")),
        ("::endgroup::", ("endgroup", {}, "")),
        ("::ERROR::x", ("error", {}, "x")),
    ],
)
def test_commands(line: str, expected: tuple[str, dict[str, str], str]) -> None:
    command = parse_command(line)
    assert command is not None
    assert (command.name, command.properties, command.message) == expected


@pytest.mark.parametrize("line", ["", "std::vector<int>", "a ::error::b", ":: error ::", "::"])
def test_ordinary_lines(line: str) -> None:
    assert parse_command(line) is None


def test_annotation_keeps_what_it_knows() -> None:
    command = parse_command("::error file=a.py,line=3,endLine=x,col=7,title=T::bad")
    assert command is not None
    assert annotation(command) == {
        "level": "error",
        "message": "bad",
        "file": "a.py",
        "title": "T",
        "line": 3,
        "column": 7,
    }
    other = parse_command("::notice ENDLINE=5, endColumn=٣,Title=x::")
    assert other is not None
    assert annotation(other) == {"level": "notice", "message": "", "title": "x", "end_line": 5}
    group = parse_command("::group::x")
    assert group is not None
    assert annotation(group) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("a=1\nb=2\n", {"a": "1", "b": "2"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=b=c<<d", {"a": "b=c<<d"}),
        ("a=", {"a": ""}),
        ("a<<EOF\none\ntwo\nEOF\nb=3", {"a": "one\ntwo", "b": "3"}),
        ("a<<EOF\r\none\r\nEOF\r\n", {"a": "one\r"}),
        ("a<<E=F\nx=1\nE=F\n", {"a": "x=1"}),
        ("a<<E\nE\n", {"a": ""}),
        ("my-name=1", {"my-name": "1"}),
        ("\ufeffa=1", {"a": "1"}),
    ],
)
def test_assignments(text: str, values: dict[str, str]) -> None:
    assert parse_assignments(text) == values


@pytest.mark.parametrize("text", [
        "just text", "a<<\nx", "a<<EOF\nno end", "1a=2", "=x", "a=\0", "a<<E\nx\0\nE",
        "a" * 257 + "=1", "\n".join(f"a{n}=1" for n in range(1_001)), "a b=1", "ä=1",
    ],
)  # fmt: skip
def test_no_assignments(text: str) -> None:
    with pytest.raises(BadFile):
        parse_assignments(text)
