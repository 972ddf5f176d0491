"""What begins runs, as plain data: the end of a state's image."""

from __future__ import annotations

import msgspec

from headrace.coordinator.core.state import Definition, ShardState


class TriggerImage(msgspec.Struct, array_like=True, gc=False):
    """Definitions of a shard. The order of the fields is the format."""

    definitions: list[tuple[str, list[tuple[str, str, int, int, str]]]] = []
    """Name -> (version, digest, number, time, actor), the newest last."""
    definition_last: int = 0


def image_of(state: ShardState) -> TriggerImage:
    """Return a copy, which does not change with the state."""
    return TriggerImage(
        definitions=[
            (key, [(version, *facts) for version, facts in versions.items()])
            for key, versions in sorted(state.definitions.items())
        ],
        definition_last=state.definition_last,
    )


def restore(state: ShardState, image: TriggerImage) -> None:
    """Put what *image* holds into a new state, whose plans and runs are there."""
    for key, versions in image.definitions:
        state.definitions[key] = {found[0]: Definition(*found[1:]) for found in versions}
        for _, digest, *_ in versions:
            state.plan_uses[digest] = state.plan_uses.get(digest, 0) + 1
    state.definition_last = image.definition_last
