"""Handlers of the examples: functions that workflows call with `uses:`.

A worker serves them: `flowctl worker --app handlers:app`, in this folder, or with it on PYTHONPATH.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec

from headrace.worker.handlers import Context, HandlerError, handler

PAGES_MAX = 100_000


class RenderInputs(msgspec.Struct, forbid_unknown_fields=True):
    """What stands under `with:`; a workflow with anything else is refused."""

    pages: int
    page_seconds: float = 0.2


@handler("example/render")
async def render(ctx: Context, inputs: RenderInputs) -> dict[str, int]:
    """Render pages one by one; after each, say that we are alive and how far we are."""
    if not 0 < inputs.pages <= PAGES_MAX:
        # Retrying does not help, so do not.
        raise HandlerError("bad-pages", f"{inputs.pages} pages: 1 to {PAGES_MAX}", retryable=False)
    for page in range(1, inputs.pages + 1):
        await asyncio.sleep(inputs.page_seconds)
        ctx.heartbeat({"page": page})
        ctx.log(f"page {page} of {inputs.pages}")
    return {"pages": inputs.pages}


app = SimpleNamespace(handlers={"example/render": render})
