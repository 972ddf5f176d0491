import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow
from headrace.language._cron import cron_problem
from headrace.plan import Debounce, EventTrigger, InputSpec, Schedule, SecretSpec

IDS = "  workflow_dispatch: {inputs: {id: {required: true}, n: {type: number}}}\n"
CRON = "  schedule:\n    - {cron: '* * * * *', "
BODY = "jobs: {j: {outputs: {v: x}, steps: [{run: x}]}}\n"


def compiled(on):
    return compile_workflow(f"{BODY}on:\n{on}", file="w.yaml")


def refused(on):
    with pytest.raises(InvalidDefinition) as caught:
        compiled(on)
    assert all(problem.line for problem in caught.value.problems)
    return [f"{problem.message} ({problem.hint})" for problem in caught.value.problems]


def test_schedules_are_carried():
    plan = compiled(
        "  schedule:\n"
        "    - cron: '30 5 * * 1-5'\n"
        "    - {cron: '*/15 0-6/2,12 1,15 JAN-mar sun', timezone: Europe/Berlin}\n"
    )
    assert plan.schedules == (
        Schedule(cron="30 5 * * 1-5"),
        Schedule(cron="*/15 0-6/2,12 1,15 JAN-mar sun", timezone="Europe/Berlin"),
    )


def test_policies_of_schedules_are_carried():
    plan = compiled(
        "  schedule:\n"
        "    - {cron: '* * * * *', catch-up: all, catch-up-window: 2h, overlap: queue,"
        "       jitter: 5m}\n"
        "    - {cron: '* * * * *', catch-up: none, overlap: cancel-previous, inputs: {n: 3}}\n"
        "  workflow_dispatch: {inputs: {n: {type: number}}}\n"
    )
    assert plan.schedules == (
        Schedule(
            cron="* * * * *",
            catch_up="all",
            window_ms=7_200_000,
            overlap="queue",
            jitter_ms=300_000,
        ),
        Schedule(cron="* * * * *", catch_up="none", overlap="cancel-previous", inputs={"n": 3}),
    )


@pytest.mark.parametrize(
    "cron", ["* * * * *", "0 0 1 1 0", "0 0 31 12 7", "5,10 */2 1-31 * MON-FRI"]
)
def test_good_cron(cron):
    assert cron_problem(cron) == ""


@pytest.mark.parametrize(
    ("cron", "wanted"),
    [
        ("* * * *", "5 fields"), ("* * * * * *", "5 fields"), ("@daily", "0 0 * * *"),
        ("60 * * * *", "'60' as minute: 0 to 59"), ("* 24 * * *", "as hour"),
        ("* * 0 * *", "day of the month: 1 to 31"), ("* * * 13 *", "as month"),
        ("* * * * 8", "day of the week: 0 to 7 or sun"), ("5-1 * * * *", "'5-1' as minute"),
        ("*/0 * * * *", "'*/0'"), ("a * * * *", "'a' as minute"), ("1,,2 * * * *", "'' as minute"),
        ("* " * 200, "over 200 characters"), ("٣ * * * *", "as minute"),
    ],
)  # fmt: skip
def test_bad_cron(cron, wanted):
    assert wanted in cron_problem(cron)


def test_events_are_carried():
    assert compiled("  event: orders.created").events == (EventTrigger(subject="orders.created"),)
    plan = compiled(
        "  event:\n"
        "    - {subject: orders.*.paid, filter: '${{ event.data.total > vars.least }}'}\n"
        "    - subject: stock.>\n"
        "      inputs: {id: '${{ event.data.id }}', n: 3}\n"
        "  workflow_dispatch: {inputs: {id: {default: none}, n: {type: number}}}\n"
        "vars: {least: 100}\n"
    )
    assert plan.events == (
        EventTrigger(subject="orders.*.paid", filter="event.data.total > vars.least"),
        EventTrigger(subject="stock.>", inputs={"id": "${{ event.data.id }}", "n": 3}),
    )


def test_debounce_is_carried():
    plan = compiled(
        "  event:\n"
        "    - {subject: a, debounce: 5s}\n"
        "    - {subject: b, debounce: {period: 1m, key: '${{ event.data.id }}', max: 1h}}\n"
    )
    assert [trigger.debounce for trigger in plan.events] == [
        Debounce(period_ms=5_000),
        Debounce(period_ms=60_000, key="${{ event.data.id }}", max_ms=3_600_000),
    ]


def test_what_a_caller_gives():
    plan = compiled(
        "  workflow_call:\n"
        "    inputs: {to: {type: string, required: true}, n: {type: number, default: 3}}\n"
        "    secrets: {TOKEN: {required: true, description: for the API}}\n"
        "    outputs: {v: {description: d, value: '${{ jobs.j.outputs.v }}'}}\n"
    )
    assert plan.inputs == {
        "to": InputSpec(required=True), "n": InputSpec(type="number", default=3)
    }  # fmt: skip
    assert plan.secrets == {"TOKEN": SecretSpec(required=True, description="for the API")}
    assert plan.nodes[0].outputs == {"v": "${{ jobs.j.outputs.v }}"}


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("  schedule:\n    - cron: nope\n", "on.schedule[0].cron has 5 fields"),
        ("  schedule:\n    - {}\n", "on.schedule[0] needs a 'cron'"),
        ("  schedule:\n    - {cron: 0 0 * * *, timezone: Europe/Berlim}\n", "Europe/Berlin"),
        (CRON + "overlap: skipp}\n", "overlap must be one of allow, skip, queue, cancel-prev"),
        (CRON + "catch-up: some}\n", "on.schedule[0].catch-up must be one of none, one, all"),
        (CRON + "catch_up: all}\n", "did you mean 'catch-up'?"),
        (CRON + "jitter: often}\n", "on.schedule[0].jitter must be a duration"),
        (CRON + "catch-up-window: 400d}\n", "catch-up-window is over 366 days"),
        (CRON + "inputs: {n: x}}\n" + IDS, "on.schedule[0].inputs.n must be a number"),
        (CRON + "inputs: {m: x}}\n" + IDS, "has no input 'm'"),
        (CRON + "inputs: {id: '${{ vars.x }}'}}\n" + IDS, "cannot hold an expression"),
        ("  schedule: daily\n", "on.schedule must be a list, not 'daily'"),
        ("  schedule:\n    - {cron: 0 0 * * *, tz: UTC}\n", "unknown key 'tz'"),
        ("  [schedule]", "'on.schedule' needs its settings"),
        ("  event\n", "'on.event' needs its settings"),
        ("  event: {filter: event.x}\n", "on.event needs a 'subject'"),
        ("  event: a..b\n", "'a..b' is no subject"),
        ("  event: {subject: a, filter: inputs.x}\n", "'inputs' is not available in on.event.fil"),
        ("  evnt: {}\n", "did you mean 'event'?"),
        ("  event: {subject: a, filtre: x}\n", "did you mean 'filter'?"),
        ("  event: {subject: a, filter: event.total > 1}\n", "'event.data.total'?"),
        ("  event: {subject: a, filter: event.data >}\n", "Unexpected"),
        ("  event: {subject: a, inputs: [x]}\n", "on.event.inputs must be a mapping"),
        ("  event: {subject: a, inputs: {x: '${{ steps.a.outputs.b }}'}}\n", "not available in"),
        ("  event: [{subject: a, inputs: {ib: 1}}]\n" + IDS, "has no input 'ib'"),
        ("  event: [{subject: a, inputs: {id: 1, n: x}}]\n" + IDS, "[0].inputs.n must be a nu"),
        ("  event: {subject: a}\n" + IDS, "'w.yaml' needs the input 'id'"),
        ("  event: a\n" + IDS, "'w.yaml' needs the input 'id'"),
        ("  event: {subject: a, debounce: soon}\n", "on.event.debounce must be a duration"),
        ("  event: {subject: a, debounce: {key: x}}\n", "on.event.debounce needs a 'period'"),
        ("  event: {subject: a, debounce: {period: 5s, maks: 1s}}\n", "unknown key 'maks'"),
        ("  event: {subject: a, debounce: {period: 5s, max: 1s}}\n", "shorter than its period"),
        ("  event: {subject: a, debounce: 400d}\n", "on.event.debounce is over 366 days"),
        ("  event: {subject: a, debounce: {period: 5s, key: '${{ inputs.x }}'}}\n", "debounce.k"),
        ("  event: [" + "a, " * 101 + "]\n", "on.event has over 100 entries"),
        ("  workflow_dispatch: {inputs: {e: {type: environment}}}\n", "'type: choice'"),
        ("  workflow_dispatch: {inputs: {e: {type: chioce}}}\n", "did you mean 'choice'?"),
        ("  workflow_dispatch: {inputs: {e: {type: choice}}}\n", "needs 'options'"),
        ("  workflow_dispatch: {inputs: {e: {type: number, default: x}}}\n", "must be a number"),
        ("  workflow_dispatch: {input: {}}\n", "did you mean 'inputs'?"),
        ("  workflow_call: {outputs: {v: {description: d}}}\n", "v needs a 'value'"),
        ("  workflow_call: {outputs: {v: {value: '${{ jobs.k.result }}'}}}\n", "'jobs.k' does"),
        (
            "  workflow_call: {outputs: {v: {value: '${{ jobs.j.outputs.w }}'}}}\n",
            "has the outputs: v",
        ),
        ("  workflow_call: {outputs: {v: {value: '${{ needs.j.result }}'}}}\n", "not available"),
        ("  workflow_call: {secrets: {a b: {}}}\n", "cannot be the name of a secret"),
    ],
)
def test_problems(on, message):
    found = refused(on)
    assert any(message in text for text in found), found


def test_one_wrong_cron_does_not_hide_another():
    assert len(refused("  schedule:\n    - cron: a\n    - cron: b\n")) == 2
