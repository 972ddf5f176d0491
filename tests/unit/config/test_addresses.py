"""What of a broker's address may be shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config import listed_addresses, shown_address, shown_addresses

SECRET = "hunter2"


def test_addresses_come_one_by_one_or_with_commas():
    given = ("nats://a:1, nats://b:2", "nats://c:3,")
    assert listed_addresses(given) == ["nats://a:1", "nats://b:2", "nats://c:3"]
    assert listed_addresses(()) == []


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("tls://nats.example", "tls://nats.example"),
        ("localhost:4222/", "localhost:4222"),
        ("nats://[::1]:4222", "nats://[::1]:4222"),
        (f"nats://ada:{SECRET}@nats:4222", "nats://nats:4222"),
        (f"nats://{SECRET}@nats:4222", "nats://nats:4222"),
        (f"ada:{SECRET}@nats:4222", "nats:4222"),
        (f"nats://ada:{SECRET}/x@y@nats:4222", "nats://nats:4222"),
        (f"nats://ada:{SECRET}", "(an address that cannot be read)"),
        ("", "(an address that cannot be read)"),
    ],
)
def test_a_login_is_left_out(address, shown):
    assert shown_address(address) == shown


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=20))
def test_no_password_is_shown_whatever_stands_around_it(noise):
    shown = shown_address(f"nats://ada:{noise}{SECRET}{noise}@nats:4222")
    assert SECRET not in shown


def test_several_addresses():
    assert shown_addresses(f"nats://a:{SECRET}@x:1,nats://y:2") == "nats://x:1, nats://y:2"
    assert shown_addresses([f"nats://a:{SECRET}@x:1"]) == "nats://x:1"
    # A comma in a password makes two addresses of one; neither half is shown.
    assert SECRET not in shown_addresses(f"nats://a:{SECRET},{SECRET}@x:1")
