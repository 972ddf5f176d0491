"""Values of users to the journal and back: what goes in comes out, or it is said why not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pydantic
import pytest

from headrace.errors import InvalidRequest
from headrace.sdk import App, Context, _codec
from headrace.sdk._signature import Signature

T = TypeVar("T")


class Kind(StrEnum):
    ONE = "one"


class Part(pydantic.BaseModel):
    when: datetime
    price: Decimal
    path: PurePosixPath
    data: bytes = b"\xff\x00"
    kind: Kind = Kind.ONE
    ids: set[int] = {1}
    sub: Part | None = None


class Cat(pydantic.BaseModel):
    type: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    type: Literal["dog"] = "dog"
    name: str = "rex"


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="type")]


class Wrapped(pydantic.BaseModel, Generic[T]):
    value: T


class Renamed(pydantic.BaseModel):
    my_field: int = pydantic.Field(alias="myField")
    other: int = pydantic.Field(3, validation_alias="in", serialization_alias="out")

    @pydantic.computed_field
    def double(self) -> int:
        return 2 * self.my_field


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    renamed: Renamed


@dataclass
class Home:
    pets: dict[str, Cat | Dog]
    part: Part


class Tagged(msgspec.Struct, tag=True):
    n: int


class AlsoTagged(msgspec.Struct, tag=True):
    text: str


WHEN = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
PART = Part(
    when=WHEN,
    price=Decimal("1.50"),
    path=PurePosixPath("/a"),
    sub=Part(when=WHEN, price=Decimal(1), path=PurePosixPath("b"), data=b"text"),
)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Part, PART),
        (Part | None, None),
        (dict[str, list[Part]], {"a": [PART]}),
        (Cat | Dog, Dog()),
        (list[Cat | Dog], [Dog(), Cat(lives=1)]),
        (Pet, Dog()),
        (Wrapped[int], Wrapped[int](value=1)),
        (Renamed, Renamed(myField=2)),
        (Strict, Strict(renamed=Renamed(myField=2))),
        (Home, Home({"x": Dog(), "y": Cat()}, PART)),
        (Tagged | AlsoTagged | None, AlsoTagged("t")),
    ],
)
def test_what_goes_in_comes_out(kind: Any, value: Any) -> None:
    assert _codec.decode(kind, _codec.encode(value)) == value
    plain = msgspec.msgpack.decode(_codec.encode(value))
    assert _codec.convert(kind, plain) == value


def test_aliases_are_read_too() -> None:
    assert _codec.convert(Renamed, {"myField": 1, "in": 2}).other == 2


@pytest.mark.parametrize(
    ("kind", "plain", "why"),
    [
        (Renamed, {"my_field": "x"}, "does not fit Renamed: my_field: Input should be a valid i"),
        (Cat | Dog, {"type": "cow"}, "Cat.type: Input should be 'cat'; Dog.type: Input should be"),
        (Pet, {"type": "cow"}, "tag 'cow'"),
        (Tagged | Home, {}, "more than one"),
        (Annotated[int, msgspec.Meta(gt=0)], -1, "`int` >= 1"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(kind: Any, plain: Any, why: str) -> None:
    for attempt in (
        lambda: _codec.decode(kind, msgspec.msgpack.encode(plain)),
        lambda: _codec.convert(kind, plain),
    ):
        with pytest.raises(_codec.CodecError) as raised:
            attempt()
        assert why in str(raised.value)
        assert "\n" not in str(raised.value)


def positive(n: Annotated[int, msgspec.Meta(gt=0)]) -> None: ...


def test_bounds_of_parameters_hold() -> None:
    with pytest.raises(_codec.CodecError, match=r"positive: n does not fit .* >= 1"):
        Signature(positive).from_map(msgspec.msgpack.encode({"n": 0}))


def test_what_has_no_form_is_named_with_who_was_to_get_it() -> None:
    for attempt in (Signature(positive).packed, Signature(positive).as_map):
        with pytest.raises(_codec.CodecError, match=r"^positive: what it is given cannot .* compl"):
            attempt((1j,), {})


def test_a_step_that_yields_is_refused() -> None:
    app = App("codec")
    with pytest.raises(InvalidRequest, match="step yields yields"):

        @app.step
        async def yields():  # type: ignore[no-untyped-def]
            yield 1

    with pytest.raises(InvalidRequest, match="not an async function"):

        @app.workflow  # type: ignore[type-var]
        async def also(ctx: Context):  # type: ignore[no-untyped-def]
            yield 1
