"""Hosts of a cluster: network namespaces on a bridge where the machine allows it, else loopback.

Owns what it makes of them: `close` removes every namespace, link and bridge. The machine's own
network is not touched, apart from one bridge with a private subnet.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

COMMAND_S = 20.0
NOWHERE = "02:00:00:00:00:00"
"""A hardware address that nobody has: what is sent there is lost without a word."""


class NotPossible(Exception):
    """The machine cannot do this; the text says why."""


class Host(NamedTuple):
    """Where a process runs."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()
    """What a command there begins with."""


class Network:
    """Loopback: every host is this machine, and nothing can be cut."""

    kind = "loopback"
    gateway = "127.0.0.1"

    def __init__(self, why: str = "asked for") -> None:
        self.why = why
        """Why there are no namespaces."""
        self.hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """Make a host."""
        made = self.hosts[name] = Host(name, "127.0.0.1")
        return made

    def cut(self, one: str, other: str, *, both: bool = True) -> None:
        """Lose all packets from *one* to *other*, and with *both* those back."""
        raise NotPossible(f"hosts cannot be parted on loopback ({self.why})")

    def unplug(self, name: str) -> None:
        """Lose all packets to and from a host, those of clients too."""
        raise NotPossible(f"hosts cannot be parted on loopback ({self.why})")

    def spoil(self, name: str, *, loss: float, delay_ms: int) -> str:
        """Lose this share of the packets to a host, and delay others; returns what was done."""
        raise NotPossible(f"packets cannot be lost on loopback ({self.why})")

    def heal(self) -> None:
        """Take back every harm."""

    def close(self) -> None:
        """Remove what was made."""


class Namespaces(Network):
    """A namespace for each host, all on one bridge; clients are on the bridge, too."""

    kind = "network namespaces"

    def __init__(self) -> None:
        """Raises `NotPossible`, having removed what it had made."""
        super().__init__("")
        for program in ("ip", "nsenter"):
            if shutil.which(program) is None:
                raise NotPossible(f"no program {program}")
        if os.geteuid():
            raise NotPossible("not root")
        sweep()
        self._tag = f"hr{os.getpid()}"
        self._bridge = f"{self._tag}b"
        self._net = f"10.{random.randint(64, 250)}.{random.randint(1, 250)}"
        self.gateway = f"{self._net}.1"
        self._cuts: set[tuple[str, str]] = set()
        """(from, to); partitions may overlap."""
        self._unplugged: set[str] = set()
        self._spoiled: dict[str, str] = {}
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{self.gateway}/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
            _let_pass(self._bridge)
            self.host("probe")
        except NotPossible:
            self.close()
            raise

    def host(self, name: str) -> Host:
        space, number = f"{self._tag}-{name}", len(self.hosts) + 11
        address, outer = f"{self._net}.{number}", self._link(number)
        _run("ip", "netns", "add", space)
        host = Host(name, address, ("nsenter", f"--net={_file(space)}", "--"))
        self.hosts[name] = host
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", outer, "master", self._bridge, "up")
        inside = ("ip", "-n", space)
        _run(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        _run(*inside, "link", "set", "lo", "up")
        return host

    def _link(self, number: int) -> str:
        return f"{self._tag}v{number}"

    def _outer(self, name: str) -> str:
        return self._link(int(self.hosts[name].address.rpartition(".")[2]))

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def cut(self, one: str, other: str, *, both: bool = True) -> None:
        # A wrong neighbour loses packets silently, as a dead switch does; a route or a firewall
        # that refuses would tell the sender.
        for source, target in ((one, other), (other, one))[: 1 + both]:
            self._cuts.add((source, target))
            address = self.hosts[target].address
            _run(
                *("ip", "-n", self._space(source), "neigh", "replace", address),
                *("lladdr", NOWHERE, "dev", "eth0", "nud", "permanent"),
            )

    def unplug(self, name: str) -> None:
        self._unplugged.add(name)
        _run("ip", "link", "set", self._outer(name), "nomaster")

    def spoil(self, name: str, *, loss: float, delay_ms: int) -> str:
        link, percent = self._outer(name), f"{loss:.1%}"
        netem = ("netem", "delay", f"{delay_ms}ms", f"{delay_ms // 4}ms", "loss", percent)
        try:
            _run("tc", "qdisc", "add", "dev", link, "root", *netem)
        except NotPossible:
            # The kernel has no netem: lose packets by a rule of the host's own, delay none.
            inside = ("nsenter", f"--net={_file(self._space(name))}", "--")
            rule = ("-m", "statistic", "--mode", "random", "--probability", f"{loss:.3f}")
            _run(*inside, "iptables", "-A", "INPUT", "-i", "eth0", *rule, "-j", "DROP")
            self._spoiled[name] = "rule"
            return f"{percent} of packets lost"
        self._spoiled[name] = "netem"
        return f"{percent} of packets lost, others {delay_ms} ms late"

    def heal(self) -> None:
        for source, target in self._cuts:
            address = self.hosts[target].address
            # Not `del`: the aim is that it is gone, and it may be, if the link was down meanwhile.
            _run(
                *("ip", "-n", self._space(source), "neigh", "flush", "to", address),
                *("dev", "eth0", "nud", "permanent"),
            )
        self._cuts.clear()
        for name in self._unplugged:
            _run("ip", "link", "set", self._outer(name), "master", self._bridge)
        self._unplugged.clear()
        for name, way in self._spoiled.items():
            if way == "netem":
                _run("tc", "qdisc", "del", "dev", self._outer(name), "root")
            else:
                inside = ("nsenter", f"--net={_file(self._space(name))}", "--")
                _run(*inside, "iptables", "-F", "INPUT")
        self._spoiled.clear()

    def close(self) -> None:
        _remove(self._tag)


def best(*, loopback: bool = False) -> Network:
    """Return namespaces, or loopback where they are not possible or not wanted."""
    if loopback:
        return Network()
    try:
        return Namespaces()
    except NotPossible as error:
        return Network(str(error))


def sweep() -> None:
    """Remove what processes that are dead by now have left."""
    folder = Path("/run/netns")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names += [path.name for path in Path("/sys/class/net").iterdir()]
    for name in names:
        digits = name[2:].partition("-")[0].rstrip("b")
        if name.startswith("hr") and digits.isdigit() and not Path(f"/proc/{digits}").exists():
            _remove(f"hr{digits}")


def _remove(tag: str) -> None:
    """Remove the namespaces of *tag*, what runs in them, and the bridge."""
    folder = Path("/run/netns")
    for path in sorted(folder.glob(f"{tag}-*")) if folder.is_dir() else ():
        with contextlib.suppress(NotPossible):
            for pid in _run("ip", "netns", "pids", path.name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            # The pair of links goes with its inner end.
            _run("ip", "netns", "del", path.name)
    _let_pass(f"{tag}b", remove=True)
    for path in Path("/sys/class/net").glob(f"{tag}[bv]*"):
        with contextlib.suppress(NotPossible):
            _run("ip", "link", "del", path.name)


def _let_pass(bridge: str, *, remove: bool = False) -> None:
    """Let packets pass from host to host, also where a Docker engine has a firewall drop what is
    forwarded on any bridge; without iptables there is no such firewall."""
    if shutil.which("iptables") is None:
        return
    action = "-D" if remove else "-I"
    rule = ("FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT")
    with contextlib.suppress(NotPossible):
        _run("iptables", "-w", "5", action, *rule)


def _file(space: str) -> str:
    return f"/run/netns/{space}"


def _run(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout}{error.stderr}".strip()
        raise NotPossible(f"{' '.join(command)}: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotPossible(f"{' '.join(command)}: {error}") from error
    return ran.stdout
