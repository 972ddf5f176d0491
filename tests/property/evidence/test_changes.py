"""Whatever is changed in a bundle, it is found."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.evidence import check, links
from headrace.evidence._bundle import export_statement, head_of
from support.bundles import exported, sealed, signer

KEY = signer(1).key


@pytest.fixture(scope="module")
def text() -> bytes:
    return sealed(exported(), by=signer(1))


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of all values in *value*."""
    found = [path] if path else []
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    for key, item in items:
        found += places(item, (*path, key))
    return found


def write(bundle: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(bundle, order="sorted"), indent=1) + b"\n"


@given(data=st.data())
def test_a_flipped_bit(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = text[:at] + bytes([text[at] ^ (1 << bit)]) + text[at + 1 :]
    assert check(changed).findings


@given(data=st.data())
def test_bytes_dropped_or_put_in(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(at, min(at + 50, len(text))))
    more = data.draw(st.binary(max_size=20))
    changed = text[:at] + more + text[end:]
    if changed != text:
        assert check(changed).findings


@given(data=st.data())
def test_a_field_changed_dropped_or_added(text: bytes, data: st.DataObject) -> None:
    bundle = json.loads(text)
    before = copy.deepcopy(bundle)
    *way, last = data.draw(st.sampled_from(places(bundle)))
    holder = bundle
    for key in way:
        holder = holder[key]
    kind = data.draw(st.sampled_from(["change", "drop", "twice"]))
    value = data.draw(st.none() | st.booleans() | st.integers(0, 99) | st.text(max_size=5))
    if kind == "change":
        holder[last] = value
    elif kind == "drop":
        del holder[last]
    elif isinstance(holder, list):
        holder.insert(last, holder[last])
    else:
        holder[f"{last}x"] = holder[last]
    if bundle != before or type(value) is not type(before):
        changed = write(bundle)
        if changed != text:
            assert check(changed).findings


@given(data=st.data())
def test_items_of_a_list_in_another_order(text: bytes, data: st.DataObject) -> None:
    bundle = json.loads(text)
    name = data.draw(st.sampled_from(["events", "history", "steps"]))
    count = len(bundle[name])
    order = data.draw(st.permutations(range(count)))
    bundle[name] = [bundle[name][index] for index in order]
    assert bool(check(write(bundle)).findings) == (list(order) != list(range(count)))


@given(data=st.data())
def test_with_the_chain_made_anew_the_key_tells(text: bytes, data: st.DataObject) -> None:
    """Who recomputes every digest still has no signature."""
    bundle = json.loads(text)
    at = data.draw(st.integers(0, len(bundle["events"]) - 1))
    bundle["events"][at]["data"] = {"changed": data.draw(st.integers(0, 9))}
    plain = [{k: v for k, v in event.items() if k != "link"} for event in bundle["events"]]
    for event, link in zip(bundle["events"], links(plain), strict=True):
        event["link"] = link
    history = bundle["head"]["history"]
    bundle["head"] = head_of(bundle, []) | {"history": history}
    bundle["export"]["digest"] = hashlib.sha256(export_statement(bundle)).hexdigest()
    found = {finding.where for finding in check(write(bundle), key=KEY).findings}
    assert found == {"export.signature"}
