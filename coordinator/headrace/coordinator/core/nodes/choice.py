"""Choices: the first branch whose condition holds, `if`/`elif`/`else`."""

from __future__ import annotations

from headrace.coordinator.core.nodes.container import Container, start_container
from headrace.coordinator.core.nodes.fields import is_wanted
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import StepSkipped
from headrace.plan import Choice


class ChoiceKind(Container):
    """One of its children runs, or none."""

    name = "choice"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Choose; the branch is what begins next."""
        choice = run.program.nodes[node]
        assert isinstance(choice, Choice)
        shift = instance - node
        children = run.program.children[node]
        chosen = next((child for child in children if is_wanted(run, child + shift, child)), -1)
        start_container(tick, run, instance, choice)
        for child in children:
            if child != chosen:
                tick.emit(run, StepSkipped(child + shift, "branch"))
        if chosen >= 0:
            tick.state.agenda.appendleft((run, chosen + shift))
