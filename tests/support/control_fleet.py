"""Coordinators as real processes on a real broker, watched through their heartbeats."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

from headrace.bus import BrokerProcess, Bus, Message
from headrace.coordinator.control import CoordinatorHeartbeat
from headrace.coordinator.control.heartbeat import decode_heartbeat
from support.broker import eventually

CHILD = Path(__file__).with_name("control_child.py")
LIVES_S = 0.7


class Fleet:
    """Processes by coordinator id; `beats` holds the latest heartbeat of each."""

    def __init__(self, broker: BrokerProcess, bus: Bus, *, shards: int = 6) -> None:
        self.broker, self.bus, self.shards = broker, bus, shards
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.beats: dict[str, tuple[float, CoordinatorHeartbeat]] = {}
        bus.subscribe("headrace.hb.coordinator.*", self._hear)

    def start(self, *names: str, peers: tuple[str, ...] | None = None) -> None:
        for name in names:
            command = [
                sys.executable, str(CHILD), "--url", self.broker.url, "--id", name,
                "--peers", ",".join(peers or names), "--shards", str(self.shards),
            ]  # fmt: skip
            self.children[name] = subprocess.Popen(command)

    def kill(self, name: str) -> None:
        child = self.children.pop(name)
        child.kill()
        child.wait()

    async def stop(self, name: str) -> None:
        child = self.children.pop(name)
        child.send_signal(signal.SIGTERM)
        await eventually(lambda: child.poll() is not None, within_s=10)
        assert child.returncode == 0

    def freeze(self, name: str) -> None:
        self.children[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.children[name].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for name in list(self.children):
            self.kill(name)

    def living(self) -> dict[str, CoordinatorHeartbeat]:
        now_s = time.monotonic()
        return {
            name: beat
            for name, (at_s, beat) in self.beats.items()
            if now_s - at_s < LIVES_S and not beat.stopped
        }

    def controllers(self) -> list[str]:
        return [name for name, beat in self.living().items() if beat.controller]

    def owners(self) -> dict[int, list[str]]:
        result: dict[int, list[str]] = {shard: [] for shard in range(self.shards)}
        for name, beat in self.living().items():
            for shard in beat.owned:
                result[shard].append(name)
        return result

    def converged(self, *names: str) -> bool:
        """Those and no others live, show the same view, have one controller and one owner each."""
        living = self.living()
        views = {(beat.view, beat.view_hash) for beat in living.values()}
        return (
            set(living) == set(names)
            and len(views) == 1
            and len(self.controllers()) == 1
            and all(len(owner) == 1 for owner in self.owners().values())
        )

    async def settle(self, *names: str, within_s: float = 20.0) -> float:
        """Wait until converged; return how long it took, in seconds."""
        start_s = time.monotonic()
        await eventually(lambda: self.converged(*names), within_s=within_s)
        return time.monotonic() - start_s

    async def until(self, condition: object, *, within_s: float) -> float:
        start_s = time.monotonic()
        await eventually(condition, within_s=within_s)  # type: ignore[arg-type]
        return time.monotonic() - start_s

    def _hear(self, message: Message) -> None:
        beat = decode_heartbeat(message.data)
        self.beats[beat.id] = (time.monotonic(), beat)


async def pause(seconds: float) -> None:
    """Let a fault last."""
    await asyncio.sleep(seconds)
