import msgspec
import pytest

from headrace.errors import NotFound
from headrace.payloads import BLOB_KEY, Blob, filled, oversized, reference, reference_to


def test_a_reference_looks_the_same_for_ever():
    # Part of logs and archives.
    sent = msgspec.msgpack.encode(reference_to("ns/run/x", 5))
    assert sent == b"\x81\xa5$blob\x82\xa3ref\xa8ns/run/x\xa4size\x05"
    assert BLOB_KEY in sent
    assert reference(msgspec.msgpack.decode(sent)) == Blob("ns/run/x", 5)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "$blob", [], {}, {"$blob": 1}, {"$blob": {"ref": "x"}}),
        *({"$blob": {}, "other": 1}, {"$blob": {"ref": 1, "size": 1}}),
        {"$blob": {"ref": "x", "size": "1"}},
    ],
)
def test_what_is_no_reference(value):
    assert reference(value) is None


async def test_filled_at_any_depth_and_not_inside_what_was_stored():
    inner = {"$blob": {"ref": "a/b/2", "size": 1}}
    store = {"a/b/1": msgspec.msgpack.encode({"deep": inner})}
    asked = []

    async def fetch(blob):
        asked.append(blob)
        return store[blob.ref]

    one = reference_to("a/b/1", 9)
    given = {"plain": 1, "list": [one, {"x": one}], "own": {"$blob": "mine"}}
    found = await filled(given, fetch)
    assert found == {
        "plain": 1,
        "list": [{"deep": inner}, {"x": {"deep": inner}}],
        "own": {"$blob": "mine"},
    }
    assert asked == [Blob("a/b/1", 9)] * 2
    assert given["list"][0] is one


async def test_what_the_store_raises_goes_through():
    async def fetch(blob):
        raise NotFound(blob.ref)

    with pytest.raises(NotFound):
        await filled([reference_to("gone", 1)], fetch)


def test_every_value_over_the_limit_goes_and_the_largest_until_the_rest_fits():
    sizes = {"a": 50_000, "b": 10_000, "c": 20_000, "d": 100, "e": 15_000}
    limits = {"inline_bytes": 32_000}
    assert oversized(sizes, together_bytes=100_000, **limits) == ["a"]
    assert oversized(sizes, together_bytes=30_000, **limits) == ["a", "c"]
    assert oversized(sizes, together_bytes=12_000, **limits) == ["a", "c", "e"]
    assert oversized(sizes, together_bytes=0, **limits) == ["a", "c", "e", "b"]
    assert oversized({}, together_bytes=0, **limits) == []
