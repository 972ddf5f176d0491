import pytest

from headrace.language._values import Names, duration_ms, is_identifier, slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1h30m", 5_400_000), ("3d", 259_200_000),
     ("1.5s", 1_500), ("7", 7_000), ("0.25", 250), ("2W", 1_209_600_000), (" 5s ", 5_000),
     ("", None), ("s", None), ("-5s", None), ("5 s", None), ("1y", None), ("1e3", None),
     ("99999999d", None), ("٣s", None), ("5s5", None)],
)  # fmt: skip
def test_durations(text, expected):
    assert duration_ms(text) == expected


def test_identifiers():
    assert all(map(is_identifier, ("a", "_a", "A-b_1")))
    assert not any(map(is_identifier, ("", "1a", "-a", "a b", "a/b", "é", "a" * 129, "a\n")))


def test_slugs_and_uniqueness():
    assert slug("Say: Hello, Wörld!") == "say-hello-w-rld"
    assert slug("!!!") == ""
    names = Names()
    assert [names.claim(name) for name in ("a", "A", "b-2")] == [True, False, True]
    assert [names.derive(name) for name in ("A", "a", "b", "b", "b")] == [
        "A-2", "a-3", "b", "b-3", "b-4",
    ]  # fmt: skip
