"""Writes the part "Scaling" of docs/benchmarks.md from the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.facts import others_text, was_busy


def render(document: Mapping[str, Any]) -> str:
    """Return the Markdown of a run."""
    machine = document["machine"]
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"Python {machine['python']}, {machine['time']}, {document['seconds']} s"
        f"{' (`--quick`)' if document['quick'] else ''}; {others_text(machine)}."
    ]
    if was_busy(machine):
        parts.append("**The machine was busy**: CPU times are too high, and rates too low.")
    for part, tables in _TABLES.items():
        if rows := document.get(part):
            parts += [table(rows) for table in tables]
            if earlier := document.get("earlier", {}).get(part):
                quick = ", `--quick`" if earlier["quick"] else ""
                busy = ", on a busy machine" if was_busy(earlier["machine"]) else ""
                parts.append(f"(An earlier run: {earlier['machine']['time']}{quick}{busy}.)")
    parts += [f"**Missed:** {missed}." for missed in document.get("missed", ())]
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _live(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("waiting runs", "step of others", "to submit one", "bytes of one", "all of them",
            "news for one", "list, longest answer", "full collection")  # fmt: skip
    return "**Waiting runs**, parked, in one shard. CPU of one thread.\n\n" + _table(
        head,
        [
            (
                f"{row['runs']:,}",
                f"{row['step_us']:.1f} us",
                f"{row['fill_us']:.0f} us",
                f"{row['bytes_a_run']:,.0f}",
                f"{row['mb']:,.0f} MB",
                f"{row['wake_us']:.0f} us",
                f"{row['list_longest_ms']:.1f} ms",
                f"{row['full_collection_ms']:.1f} ms",
            )
            for row in rows
        ],
    )


def _pieces(rows: Sequence[Mapping[str, Any]]) -> str:
    names = {
        "snapshot": "snapshot",
        "read_back": "read back",
        "load": "load",
        "resume": "take over",
    }

    def cell(figures: Mapping[str, float]) -> str:
        return f"{figures['ms'] / 1_000:.2f} s, {figures['longest_ms']:.0f} ms"

    text = "What is done with all of them is done in pieces: all of it, and the longest piece.\n\n"
    return text + _table(
        ("waiting runs", *names.values(), "bytes of the snapshot"),
        [
            (
                f"{row['runs']:,}",
                *(cell(row[name]) for name in names),
                f"{row['snapshot']['bytes']:,}",
            )
            for row in rows
        ],
    )


def _history(rows: Sequence[Mapping[str, Any]]) -> str:
    names = {
        "get": "`get`",
        "get_steps": "`get` with steps",
        "explain": "`explain`",
        "history": "`history`, 1,000 events",
        "past": "`get --at`, the middle, with steps",
        "load": "load at a takeover",
    }

    def cell(row: Mapping[str, Any], name: str) -> str:
        hold = row.get(f"{name}_hold_ms")
        longest = f", {hold:.1f} ms" if hold is not None else ""
        return f"{row[f'{name}_ms']:.1f} ms{longest}"

    text = (
        "**One run with a long history.** CPU of one thread. Of what is done in pieces also the "
        "longest one: for so long no tick, heartbeat or append is attended to.\n\n"
    )
    return text + _table(
        ("events", "a step", *names.values(), "bytes in the state"),
        [
            (
                f"{row['events']:,}",
                f"{row['step_us']:.1f} us",
                *(cell(row, name) for name in names),
                f"{row['state_bytes']:,}",
            )
            for row in rows
        ],
    )


def _heartbeats(rows: Sequence[Mapping[str, Any]]) -> str:
    return (
        "**Heartbeats of simulated workers**, one a second each, to one coordinator.\n\n"
    ) + _table(
        ("workers", "listed", "within", "of a core", "a heartbeat, with all else", "memory"),
        [
            (
                f"{row['workers']:,}",
                f"{row['registered']:,}",
                f"{row['registered_s']:.1f} s",
                f"{row['cpu_share'] * 100:.1f} %",
                f"{row['us_a_heartbeat']:.0f} us",
                f"{row['rss_mb']:.0f} MB",
            )
            for row in rows
        ],
    )


def _processes(rows: Sequence[Mapping[str, Any]]) -> str:
    roles = ("all", "broker", "coordinators", "workers", "client")
    text = (
        "**W2 on more processes**, four shards. CPU a step in us; the cores are shared by all.\n\n"
    )
    return text + _table(
        ("coordinators", "workers", "steps/s", *roles),
        [
            (
                str(row["coordinators"]),
                str(row["workers"]),
                f"{row['steps_per_s']['median']:,.0f}",
                *(f"{row['cpu_us_per_step'][role]:.1f}" for role in roles),
            )
            for row in rows
        ],
    )


_TABLES = {
    "live": (_live, _pieces),
    "history": (_history,),
    "heartbeats": (_heartbeats,),
    "processes": (_processes,),
}
