"""What an embedded engine answers and changes as a client of a cluster does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.client import Client
from headrace.messages import Explanation, HistoryEntry, RunPage


class Asking:
    """Part of `LocalEngine`: its `Client`, under the engine's own name."""

    _client: Client

    async def history(self, run: str) -> Sequence[HistoryEntry]:
        """Return all events of a run in order. Raises `NotFound`."""
        return await self._client.history(run)

    async def evidence(self, run: str) -> bytes:
        """Return the text of a run's bundle, see `headrace.evidence`. Raises `NotFound`."""
        return await self._client.evidence(run)

    async def explain(self, run: str) -> Explanation:
        """Return why a run is where it is. Raises `NotFound`."""
        return await self._client.explain(run)

    async def list(
        self,
        *,
        states: Sequence[str] = (),
        workflow: str = "",
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        cursor: str = "",
    ) -> RunPage:
        """Return a page of open and closed runs, newest first, without their steps."""
        return await self._client.list(
            states=states, workflow=workflow, labels=labels, limit=limit, cursor=cursor
        )

    async def signal(self, run: str, name: str, payload: Any = None) -> None:
        """Deliver a signal once. Raises `NotFound`, `Conflict`."""
        await self._client.signal(run, name, payload)

    async def cancel(self, run: str, *, reason: str = "") -> None:
        """Stop a run; it has ended once its steps are dead. Raises `NotFound`, `Conflict`."""
        await self._client.cancel(run, reason=reason)

    async def pause(self, run: str, *, reason: str = "") -> None:
        """Begin no more steps of a run; what runs goes on."""
        await self._client.pause(run, reason=reason)

    async def resume(self, run: str) -> None:
        """Go on with a paused run."""
        await self._client.resume(run)
