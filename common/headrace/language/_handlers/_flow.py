"""`sleep`, `noop`, and the types of tasks that the engine carries out by itself."""

from __future__ import annotations

from headrace.language._handlers._spec import HandlerSpec, NodeSpec, field, out

SLEEP = HandlerSpec(
    name="sleep",
    description=(
        "Waits on the worker and holds a slot meanwhile. The step `sleep:` and a task of "
        "`type: sleep` wait in the engine: without a slot, across restarts, for months."
    ),
    inputs={
        "duration": field("duration", "How long: 250ms, 90s, 1m30s; a number counts seconds."),
        "seconds": field("number", "How long."),
    },
    outputs={"seconds": out("number", "How long it was.")},
    exactly_one=(("duration", "seconds"),),
    example="""\
- uses: sleep
  with: {duration: 10ms}
""",
)

NOOP = HandlerSpec(
    name="noop",
    description="Does nothing; its inputs are its outputs.",
    open=True,
    open_outputs=True,
    example="""\
- id: facts
  uses: noop
  with: {region: eu, zones: [a, b]}
- run: test "${{ steps.facts.outputs.zones[1] }}" = b
""",
)

NODES = (
    NodeSpec(
        name="parallel",
        description="Runs tasks side by side; `join` says how many must succeed.",
        step="parallel",
        example="""\
- name: both
  type: parallel
  tasks:
    - {name: left, type: noop}
    - {name: right, type: noop}
""",
    ),
    NodeSpec(
        name="pipeline",
        description="Runs tasks one after the other.",
        step="pipeline",
        example="""\
- name: line
  type: pipeline
  steps:
    - {name: first, type: noop}
    - {name: second, type: noop}
""",
    ),
    NodeSpec(
        name="group",
        description="A graph of tasks inside a graph, ordered by `depends_on`.",
        step="",
        example="""\
- name: graph
  type: group
  tasks:
    - {name: base, type: noop}
    - {name: top, type: noop, depends_on: [base]}
""",
    ),
    NodeSpec(
        name="loop",
        description=(
            "Runs tasks once for each item; with `while`, `until` or `repeat: N`, one iteration "
            "after the other, at most `max-iterations`."
        ),
        step="loop",
        example="""\
- name: regions
  type: loop
  config: {for-each: [eu, us], as: region}
  tasks:
    - {name: deploy, type: shell, config: {command: 'echo "${{ region }}"'}}
""",
    ),
    NodeSpec(
        name="if",
        description="Runs the tasks under `then` if its condition holds, else `elif` and `else`.",
        step="if",
        example="""\
- name: size
  type: if
  if: ${{ 3 > 5 }}
  then:
    - {name: large, type: noop}
  elif:
    - {if: "${{ 3 > 2 }}", then: [{name: middle, type: noop}]}
  else:
    - {name: small, type: noop}
""",
    ),
    NodeSpec(
        name="condition",
        description="As `if`; its settings may stand under `config`.",
        step="if",
        example="""\
- name: big
  type: condition
  config:
    if: ${{ 3 > 2 }}
    then:
      - {name: large, type: noop}
    else:
      - {name: small, type: noop}
""",
    ),
    NodeSpec(
        name="choose",
        description="Runs the first of its branches whose condition holds.",
        step="choose",
        example="""\
- name: size
  type: choose
  branches:
    - {if: "${{ 3 > 5 }}", tasks: [{name: large, type: noop}]}
    - {else: true, tasks: [{name: small, type: noop}]}
""",
    ),
    NodeSpec(
        name="sleep",
        description="Waits in the engine: without a slot, across restarts, for months.",
        step="sleep",
        example="""\
- {name: pause, type: sleep, config: {duration: 10ms}}
""",
    ),
    NodeSpec(
        name="wait",
        description="Waits for a signal; with `timeout` and `default` not for ever.",
        step="wait-for",
        example="""\
- name: payment
  type: wait
  config: {signal: paid, timeout: 10ms, default: {amount: 0}}
""",
    ),
    NodeSpec(
        name="approval",
        description="Waits until a person agrees.",
        step="approval",
        example="""\
- name: release
  type: approval
  config: {signal: release, timeout: 10ms, default: {approved: true}}
""",
    ),
)
