"""What a workflow itself asks of its steps: who runs them, and that they stop."""

from __future__ import annotations

import msgspec


class StepKeyed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """The sticky key of a step is known: it prefers the worker that last ran the key."""

    step: int
    key: str


class StepsStopped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """A step of the workflow (`cancel`) stops background steps; it ends when these have ended."""

    node: int
    steps: list[int]
