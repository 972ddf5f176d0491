"""Forms in which a secret may show."""

from __future__ import annotations

import base64
import html
import json
import shlex
import urllib.parse

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.worker.masks import Masker
from support.worker_owner import make_task, output_of

SECRETS = (
    "hunter2hunter2",
    "pa\"ss\\wo/rd&<x> 'y",
    "-----BEGIN KEY-----\nMIIEpAIBAAKC\nqwertzuiop/+==\n-----END KEY-----",
    "schlüssel€wort",
    "tab\tand\r\nreturn",
)


def leaks(secret: str, shown: str) -> list[str]:
    """Return the lines of *secret* that *shown* holds."""
    return [line for line in secret.splitlines() if len(line.strip()) > 3 and line.strip() in shown]


@pytest.mark.parametrize("secret", SECRETS)
def test_forms_are_hidden(secret: str) -> None:
    masker = Masker([secret])
    forms = {
        "raw": secret,
        "json": json.dumps({"a": secret}),
        "json utf-8": json.dumps([secret], ensure_ascii=False),
        "json twice": json.dumps(json.dumps({"a": secret})),
        "repr": repr(secret),
        "quote": urllib.parse.quote(secret, safe=""),
        "quote path": urllib.parse.quote(secret),
        "form": urllib.parse.urlencode({"a": secret}),
        "html": html.escape(secret),
        "shell": shlex.quote(secret),
    }
    for name, form in forms.items():
        shown = masker.text(f"before {form} after")
        assert "***" in shown, name
        assert shown.startswith("before "), name
        assert leaks(secret, shown) == [], name


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", ["", "x", "user:", "us:", "any length"])
@pytest.mark.parametrize("after", ["", "!", "!!", "\n", "and more"])
def test_base64_is_hidden_wherever_it_stands(secret: str, before: str, after: str) -> None:
    masker = Masker([secret])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode((before + secret + after).encode()).decode()
        shown = masker.text(encoded)
        assert "***" in shown
        # What is left are the neighbours, with at most the bits of one byte of the secret.
        left = len(encoded) - len(encode(secret.encode()).decode())
        assert len(shown.replace("***", "")) <= left + 6


@given(st.text(min_size=4, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_base64_of_anything(secret: str, before: bytes, after: bytes) -> None:
    if len(secret.strip().encode()) < 7:
        return
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    assert "***" in Masker([secret]).text(encoded)


def test_values_in_bytes_and_deep_inside() -> None:
    masker = Masker(["hunter2hunter2"])
    packed = msgspec.msgpack.encode({"a": [b"x hunter2hunter2 y", {"b": "hunter2hunter2"}]})
    assert msgspec.msgpack.decode(masker.packed(packed)) == {"a": [b"x *** y", {"b": "***"}]}


def test_brackets_of_a_secret_in_json_are_not_hidden() -> None:
    masker = Masker(['{\n  "key": "hunter2hunter2"\n}'])
    assert masker.text("{ x }") == "{ x }"
    assert masker.text('"key": "hunter2hunter2"') == "***"


def test_a_copy_goes_its_own_way() -> None:
    first = Masker(["hunter2hunter2"])
    second = first.copy()
    second.add("another-one")
    assert first.text("hunter2hunter2 another-one") == "*** another-one"
    assert second.text("hunter2hunter2 another-one") == "*** ***"


async def test_half_a_secret_is_not_left_where_a_text_is_cut(make_bench) -> None:
    secret = "hunter2hunter2-and-more"
    bench = make_bench(secrets={"TOKEN": secret})
    long = "import sys\nsys.stdout.write('y' * 70_000 + SECRET * 3_000)\n".replace(
        "SECRET", repr(secret)
    )
    result = await bench.run_one(
        make_task("default/1", uses="shell", inputs={"run": long, "shell": "python"})
    )
    output = output_of(result)
    assert output["stdout-truncated"]
    assert "hunter" not in output["stdout"]
    assert "-more" not in output["stdout"].replace("***", "")
    for number, length in enumerate((280, 290, 295)):
        run = f"echo {'x' * length}{secret} >&2; exit 1"
        failed = await bench.run_one(
            make_task(f"default/{2 + number}", uses="shell", inputs={"run": run})
        )
        assert "hunter" not in failed.error.message
    cut = await bench.run_one(
        make_task("default/9", uses="file/read", inputs={"path": "/none" + "x" * 3_980 + secret})
    )
    assert "hunt" not in cut.error.message
