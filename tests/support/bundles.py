"""Evidence bundles of a real run, for tests that try to forge them."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.coordinator.core.program import Program
from headrace.coordinator.runtime.evidence import Notary
from headrace.evidence import Signer
from headrace.language import HandlerSpec, compile_workflow
from headrace.local import LocalEngine
from headrace.messages import Seal
from headrace.plan import decode_plan
from headrace.worker.handlers import Context, HandlerError, handler
from support.broker import in_thread

WORKFLOW = """
name: decide
on: {workflow_dispatch: {inputs: {amount: {type: number, default: 7}}}}
jobs:
  main:
    runs-on: linux
    steps:
      - {id: read, uses: test/read, with: {amount: "${{ inputs.amount }}"}}
      - id: decide
        uses: test/decide
        with: {score: "${{ steps.read.outputs.score }}", note: "Ä \\" { [ 日本"}
        retry: {max-attempts: 3, initial: 1ms}
"""


@handler("test/read", version="1.1")
async def read(ctx: Context, inputs: dict) -> dict:
    ctx.note_evidence(sources=["crm/7"])
    return {"score": inputs["amount"] * 0.5}


@handler("test/decide", version="2")
async def decide(ctx: Context, inputs: dict) -> dict:
    if ctx.attempt < 2:
        raise HandlerError("flaky", "try again")
    ctx.note_evidence(model="m-1", parameters={"temperature": 0.0})
    return {"approved": inputs["score"] > 3}


def signer(seed: int = 1) -> Signer:
    """Return a signer; the same for the same *seed*."""
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def exported() -> bytes:
    """Run the workflow in memory and return its bundle, not signed."""
    found: list[bytes] = []

    async def work() -> None:
        found.append(await _run())

    in_thread(work())
    return found[0]


async def _run() -> bytes:
    specs = {name: HandlerSpec(name=name, open=True) for name in ("test/read", "test/decide")}
    plan = compile_workflow(WORKFLOW, file="decide.yaml", handlers=specs)
    async with LocalEngine(handlers=[read, decide]) as engine:
        view = await engine.run(plan, run_id="decide-1")
        assert view.state == "COMPLETED", view
        return await engine.evidence(view.id)


def parts(text: bytes) -> tuple[list[Program], list[bytes]]:
    """Return programs and history of a bundle."""
    bundle = json.loads(text)
    programs = [
        Program(decode_plan(base64.b64decode(data)), digest, "default", frozenset())
        for digest, data in bundle["plans"].items()
    ]
    return programs, [base64.b64decode(chunk) for chunk in bundle["history"]]


def rewritten(text: bytes, *, by: Signer | None, seal: Seal | None = None) -> bytes:
    """Return the bundle of the same history, written by somebody else."""
    programs, chunks = parts(text)
    return Notary(by).bundle("default/decide-1", programs, chunks, shard=0, seal=seal)


def sealed(text: bytes, *, by: Signer | None) -> bytes:
    """Return it sealed and signed by one key."""
    programs, chunks = parts(text)
    packed = [b"".join(len(c).to_bytes(4, "little") + c for c in chunks)]
    events: int = json.loads(text)["head"]["events"]
    seal = Notary(by).seal(
        "default/decide-1", events=events, plan=programs[0].digest, packed=packed
    )
    return rewritten(text, by=by, seal=seal)


def forged(text: bytes, change: Any) -> bytes:
    """Return what somebody writes who has changed the history and everything that follows."""
    from headrace.events import decode_chunk, encode_chunk

    programs, chunks = parts(text)
    decoded = [decode_chunk(chunk) for chunk in chunks]
    again = [
        encode_chunk(c.run, c.first, c.time_ms, [change(e) for e in c.events]) for c in decoded
    ]
    return Notary().bundle("default/decide-1", programs, again, shard=0)
