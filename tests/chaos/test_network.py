"""Network namespaces of the chaos rounds: hosts hear each other until they are parted."""

import subprocess
import sys

import pytest

from support.rounds.network import Namespaces, NotPossible

pytestmark = [pytest.mark.chaos]

_SEND = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (sys.argv[1], 4000))
"""
_HEAR = """
import socket, sys
ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(("", 4000))
print("ready", flush=True)
ear.settimeout(float(sys.argv[1]))
try:
    print(ear.recv(9).decode())
except TimeoutError:
    print("nothing")
"""


@pytest.fixture
def network():
    try:
        made = Namespaces()
    except NotPossible as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        made.host("a")
        made.host("b")
        yield made
    finally:
        made.close()


def hears(network, speaker, listener, *, within_s=5.0):
    """Tell whether a packet from one host reaches another one."""
    ear = subprocess.Popen(
        [*network.hosts[listener].prefix, sys.executable, "-c", _HEAR, str(within_s)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with ear:
        assert ear.stdout.readline() == "ready\n"
        mouth = [*network.hosts[speaker].prefix, sys.executable, "-c", _SEND]
        subprocess.run([*mouth, network.hosts[listener].address], check=True, timeout=20)
        return ear.stdout.readline() == "hello\n"


def test_a_cut_parts_two_hosts_one_way_or_both(network):
    assert hears(network, "a", "b")
    network.cut("a", "b", both=False)
    assert not hears(network, "a", "b", within_s=0.5)
    assert hears(network, "b", "a")
    network.heal()
    assert hears(network, "a", "b")
    network.cut("a", "b")
    assert not hears(network, "b", "a", within_s=0.5)


def test_an_unplugged_host_is_alone_until_it_is_healed(network):
    network.unplug("a")
    assert not hears(network, "a", "b", within_s=0.5)
    network.heal()
    assert hears(network, "a", "b")


def test_all_packets_of_a_bad_link_may_be_lost(network):
    network.spoil("b", loss=1.0, delay_ms=1)
    assert not hears(network, "a", "b", within_s=0.5)
    network.heal()
    assert hears(network, "a", "b")
