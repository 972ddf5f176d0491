"""Arguments to data by name, and back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.errors import InvalidRequest
from headrace.sdk._signature import Signature


def plain(a: int, b: str = "x") -> None: ...
def named(a: int, *, b: str = "x") -> None: ...
def needs_name(a: int, *, b: str) -> None: ...
def any_number(*args: int, **kwargs: int) -> None: ...
def nothing() -> None: ...


def sent(function: Any, *args: Any, **kwargs: Any) -> Any:
    return msgspec.msgpack.decode(Signature(function).as_map(args, kwargs))


def test_arguments_go_by_name_however_they_are_given() -> None:
    assert sent(plain, 1, "y") == {"a": 1, "b": "y"}
    assert sent(plain, 1, b="y") == {"a": 1, "b": "y"}
    assert sent(plain, b="y", a=1) == {"b": "y", "a": 1}
    assert sent(plain, 1) == {"a": 1}
    assert sent(named, 1, b="y") == {"a": 1, "b": "y"}
    assert sent(any_number, c=3) == {"c": 3}
    assert sent(nothing) == {}


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "why"),
    [
        (plain, (), {}, "missing input a"),
        (plain, (1, "y", 3), {}, "takes 2 inputs, not 3"),
        (plain, (1,), {"a": 2}, "no free input 'a'"),
        (plain, (1,), {"c": 2}, "no free input 'c'"),
        (named, (1, "y"), {}, "takes 1 inputs, not 2"),
        (needs_name, (1,), {}, "missing input b"),
        (nothing, (1,), {}, "takes 0 inputs, not 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(function, args, kwargs, why) -> None:
    with pytest.raises(InvalidRequest, match=why):
        Signature(function).as_map(args, kwargs)


def test_data_become_arguments_of_the_types_that_are_asked_for() -> None:
    data = Signature(plain).as_map((1, "y"), {})
    assert Signature(plain).from_map(data) == {"a": 1, "b": "y"}
    assert Signature(plain).from_map(msgspec.msgpack.encode({"a": 1})) == {"a": 1}
    assert Signature(any_number).from_map(msgspec.msgpack.encode({"c": 3})) == {"c": 3}
    for wrong, why in (({"b": "y"}, "missing input a"), ({"a": 1, "c": 2}, "has no input 'c'")):
        with pytest.raises(InvalidRequest, match=why):
            Signature(plain).from_map(msgspec.msgpack.encode(wrong))
