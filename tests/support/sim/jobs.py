"""Of a run's model: jobs whose worker, with their workspace, is lost.

The rules: a job begins anew only if it goes on at all, if it was to (`on-worker-loss`), and if
nothing in it that may run once has begun; it goes on elsewhere only if that was asked for, or if
what it has done is being undone, is decided about, or is nobody's concern any more.
"""

from __future__ import annotations

from typing import Any

from headrace.plan import Group, Task
from support.sim.instances import COMPLETED, FAILED, HELD, RUNNING, UNKNOWN, Instance
from support.sim.undoing import Undoing

_HAS_RUN = (COMPLETED, FAILED, UNKNOWN)


class Jobs(Undoing):
    """Events 25 and 26."""

    def job_restarted(self, event: list[Any]) -> None:
        """A job begins anew."""
        job = self.instances[event[1]]
        if job.state != RUNNING or job.detached:
            self.fault(f"job {job.index} restarts while {job.state}")
        if not isinstance(job.node, Group) or job.node.on_worker_loss != "restart-job":
            self.fault(f"job {job.index} restarts, and was not to")
        for step in self.below(job):
            once = isinstance(step.node, Task) and step.node.effect == "at-most-once"
            if once and step.state in _HAS_RUN and step.attempt:
                self.fault(f"job {job.index} restarts, and {step.index} in it may run once")
        self.begin_anew(job)

    def job_moved(self, event: list[Any]) -> None:
        """A job goes on in another workspace."""
        job = self.instances[event[1]]
        if not isinstance(job.node, Group):
            self.fault(f"{job.index} is no job, and moves")
        elif job.node.on_worker_loss != "continue" and not self._is_past(job):
            self.fault(f"job {job.index} goes on elsewhere, and was to {job.node.on_worker_loss}")

    def _is_past(self, job: Instance) -> bool:
        """What the job has done is what matters, not what it could do."""
        above: Instance | None = job
        while above is not None and above.index not in self.sagas:
            above = above.parent
        held = any(step.state == HELD for step in self.below(job))
        return above is not None or held or job.detached or job.state != RUNNING
