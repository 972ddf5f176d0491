from headrace.coordinator.archive import ArchivedRun, RunSummary, Segment
from headrace.coordinator.archive.memory import MemoryArchive
from headrace.messages import ListRuns


def closed(number):
    summary = RunSummary(
        namespace="ns",
        run=f"r{number}",
        workflow="w",
        state="COMPLETED",
        created_ms=100 - number,
        finished_ms=number,
        plan="p",
    )
    return ArchivedRun(summary, [Segment(1, b"x")])


async def test_it_holds_so_many_runs_and_drops_those_that_ended_first():
    archive = MemoryArchive(runs_max=3)
    await archive.put([closed(number) for number in range(10)])
    assert [view.id for view in (await archive.list("ns", ListRuns())).runs] == ["r7", "r8", "r9"]
    assert await archive.history("ns", "r0") == []
    assert len(archive._segments) == 3
    await archive.close()
