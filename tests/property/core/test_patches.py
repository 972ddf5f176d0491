"""Random patches in the middle of random runs: nothing recorded is lost, and every run ends."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import event
from hypothesis.stateful import precondition, rule

from headrace.coordinator.core import Refusal, Run, state_hash, status
from headrace.coordinator.core.patching import bound_paths
from headrace.events import PlanPatched
from property.core.test_machine import Workflows
from support.core_patches import edited, plan_of, spec_of
from support.core_settings import TIMEOUT_S, examples
from support.patchkit import plain_image

pytestmark = pytest.mark.timeout(TIMEOUT_S)
FACTS = ("outputs", "errors", "tokens", "claims", "waits", "losses", "uncounted", "due")


def by_path(run: Run) -> dict[str, Any]:
    """What the run has of each instance that has begun, by path."""
    found: dict[str, Any] = {}
    for instance, value in enumerate(run.status):
        fresh = value in (status.PENDING, status.TEMPLATE) and not run.attempt[instance]
        if fresh and instance not in run.gates:
            continue
        facts = {name: getattr(run, name).get(instance) for name in FACTS}
        for name in ("tolerated", "doomed", "detached", "undo", "sagas", "node_keys"):
            facts[name] = instance in getattr(run, name)
        counts = run.counts.get(instance)
        figures = counts.image()[3:] if counts is not None else None
        found[run.path(instance)] = (value, run.attempt[instance], facts, figures)
    return found


class Patched(Workflows):
    """The runs of `Workflows`, patched again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.patches: dict[str, int] = {}

    def _open(self) -> list[str]:
        return [name for name in self.names if not self._over(name)]

    @precondition(_open)
    @rule(data=st.data())
    def patch(self, data: st.DataObject) -> None:
        """Edit what has not begun, mostly: accepted or refused, what has begun stays as it was."""
        name = data.draw(st.sampled_from(self._open()))
        run = self.kit.run(name)
        plan = data.draw(edited(run.program.plan, bound_paths(run)))
        digest = self.kit.store(plan)
        before, facts = state_hash(self.kit.folder.state), by_path(run)
        reply = self.kit.patch(digest, name)
        event("refused" if isinstance(reply, Refusal) else "accepted")
        if isinstance(reply, Refusal):
            assert reply.code == "conflict", reply
            assert state_hash(self.kit.folder.state) == before
            return
        (patched,) = [e for _, e in self.kit.fresh if isinstance(e, PlanPatched)]
        assert patched.plan == digest == run.program.digest
        if len(self.kit.fresh) == 1:
            assert by_path(run) == facts
        else:
            self._all_kept(facts, by_path(run))

    @rule(data=st.data())
    def same(self, data: st.DataObject) -> None:
        """The same plan changes nothing."""
        name = self._some_run(data)
        run = self.kit.run(name)
        assert plan_of(spec_of(run.program.plan), run.program.plan) == run.program.plan
        before = plain_image(run)
        reply = self.kit.patch(run.program.digest, name)
        if not isinstance(reply, Refusal) and len(self.kit.fresh) == 1:
            assert plain_image(run) == before
        assert isinstance(reply, Refusal) or (reply.added, reply.removed, reply.changed) == (
            [], [], [],
        )  # fmt: skip

    def _all_kept(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """New nodes may have begun meanwhile; whatever was recorded is there."""
        for path, (value, attempt, facts, _) in before.items():
            now, attempts, kept, _ = after[path]
            if status.is_final(value):
                assert (now, attempts) == (value, attempt)
            if value == status.COMPLETED:
                assert kept["outputs"] == facts["outputs"]

    def _judge(self, run: Run, event: Any) -> None:
        if not isinstance(event, PlanPatched):
            super()._judge(run, event)
            return
        number = self.patches.get(run.key, 0)
        self.patches[run.key] = number + 1
        assert run.patches is not None
        move = run.patches.moves[number]
        for known in (self.done, self.claimed):
            own = [at for at in known if at[0] == run.key]
            moved = [(at, (run.key, move.of(at[1]))) for at in own]
            if isinstance(known, dict):
                told = {after: known[at] for at, after in moved if after[1] >= 0}
            for at in own:
                known.pop(at) if isinstance(known, dict) else known.discard(at)
            known.update(told if isinstance(known, dict) else {a for _, a in moved if a[1] >= 0})


TestPatched = Patched.TestCase
TestPatched.settings = examples(150)
