"""What each key means and which values it takes, by the mapping that it stands in. Data only.

Which keys there are, the compiler's own tables say; a test holds that none lacks its words here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, get_args

from headrace.language._schema._values import (
    BOOLEAN,
    CONDITION,
    COUNT,
    DURATION,
    DURATION_OR_EXPRESSION,
    ENVIRONMENT,
    FLAG,
    JOIN,
    JSON,
    MINUTES,
    SHELL,
    TEXT,
    TEXTS,
    VALUES,
    Fragment,
    either,
    integer,
    items,
    named,
    number,
    one_of,
    ref,
)
from headrace.plan import TriggerRule


class Word(NamedTuple):
    """A key."""

    text: str
    """What it means, in a sentence or two."""
    value: Fragment


Words = dict[str, Word]

_CONCURRENCY = either(TEXT, ref("concurrency"))
_RUNS_ON = either(TEXTS, ref("runs-on"))
_STICKY = Word(
    "It prefers, for two seconds, the worker that last ran this key; `true`: the worker "
    "that ran the run's other sticky parts.",
    either(BOOLEAN, TEXT),
)
_RETRY = either(integer(1, 1_000_000), ref("retry"))
_GATES: Words = {
    "lock": Word("It runs while it holds this lock: one at a time in the namespace.",
                 either(TEXT, ref("lock"))),
    "rate-limit": Word("How many begin in a period, by key.", ref("rate-limit")),
}  # fmt: skip
_ON_FAILURE = either(TEXT, ref("on-failure"))
_TRIGGER_RULE = one_of(
    *(rule.replace("_", mark) for mark in "_-" for rule in get_args(TriggerRule))
)

ROOT: Words = {
    "name": Word("Name of the workflow; without it, the file's.", TEXT),
    "run-name": Word("Title of each run; may hold expressions over `inputs`.", TEXT),
    "description": Word("What it is for.", TEXT),
    "version": Word("Version of the definition, as you count.", TEXT),
    "on": Word("What begins runs, and the inputs that they take.", ref("on")),
    "inputs": Word("Inputs of a run, by name; in `jobs:` they stand under `on:`.", ref("inputs")),
    "env": Word("Environment of every step; the inner one wins.", ENVIRONMENT),
    "retry": Word("Retries of every step, unless its job or itself has others.", _RETRY),
    "on-failure": Word("What follows a failure; steps inherit it.", _ON_FAILURE),
    "on-cancel": Word("`compensate`: what has completed is undone when the run is cancelled.",
                      one_of("compensate", "stop")),
    "handlers": Word("Steps by name that `run NAME` calls for: one, or a list.", VALUES),
    "vars": Word("Constants of this file, read as `vars.NAME`; any JSON.", VALUES),
    "labels": Word("Labels of each run, to find it by: `flowctl list --label`.", ENVIRONMENT),
    "concurrency": Word("Runs of one group, one after the other.", _CONCURRENCY),
    "fairness-key": Word("Runs of equal priority take turns by this key; may hold expressions over "
                         "`inputs`.", TEXT),
    "fairness-weight": Word("How large the key's turn is; without it, 1.", number(0.001, 1_000)),
    "rate-limit": Word("How many runs begin in a period, by key; others wait.", ref("rate-limit")),
    "timeout-minutes": Word("The whole run fails after so many minutes.", number(0, 52_704_000)),
    "timeout": Word("The whole run fails after this time: `90s`, `1h30m`.", DURATION),
    "defaults": Word("Defaults of all `run:` steps.", ref("defaults")),
    "runs-on": Word("Labels that a worker of any task must offer: all of them.", _RUNS_ON),
    "jobs": Word("The jobs by id. They run side by side, unless `needs:` says otherwise.",
                 ref("jobs")),
    "tasks": Word("The tasks, ordered by `depends_on` alone; the other dialect is `jobs:`.",
                  ref("tasks")),
}  # fmt: skip
DISPATCH: Words = {"inputs": Word("Inputs of a run, by name.", ref("inputs"))}
CALL: Words = {
    "inputs": Word("Inputs that the caller gives, by name.", ref("inputs")),
    "outputs": Word("Outputs for the caller, by name.", ref("call-outputs")),
    "secrets": Word("Secrets that the caller gives, by name.", ref("call-secrets")),
}
CALL_SECRET: Words = {
    "description": Word("What it is for.", TEXT),
    "required": Word("Whether a caller must give it.", BOOLEAN),
}
CALL_OUTPUT: Words = {
    "description": Word("What it is.", TEXT),
    "value": Word("An expression over `jobs`: `${{ jobs.build.outputs.version }}`.", TEXT),
}
SCHEDULE: Words = {
    "cron": Word("Minute, hour, day of the month, month, day of the week: `30 5 * * 1-5`.", TEXT),
    "timezone": Word("A name such as `Europe/Berlin`; without it, UTC.", TEXT),
    "catch-up": Word("Of times that passed while no coordinator was there; without it, `one`: the "
                     "newest.", one_of("none", "one", "all")),
    "catch-up-window": Word("What is older is not caught up; without it, a day.", DURATION),
    "overlap": Word("When the run before has not ended; without it, `allow`.",
                    one_of("allow", "skip", "queue", "cancel-previous")),
    "jitter": Word("A run begins up to this much later, by chance.", DURATION),
    "inputs": Word("Inputs of its runs by name; no expressions.", VALUES),
}  # fmt: skip
EVENT: Words = {
    "subject": Word("Subject of the event: `orders.*`, `orders.>`.", TEXT),
    "filter": Word("A condition over `event`; without it, every event counts.", CONDITION),
    "inputs": Word("Inputs of the run by name, mostly from the event: `${{ event.data.id }}`.",
                   VALUES),
    "debounce": Word("Of events that come closely one after the other, the last one begins a run.",
                     either(DURATION, ref("debounce"))),
}  # fmt: skip
DEBOUNCE: Words = {
    "period": Word("So long no other event may come: `5s`.", DURATION),
    "key": Word("Events of one key are together: `${{ event.data.id }}`; without it, all are.",
                TEXT),
    "max": Word("The run begins so long after the first event at the latest.", DURATION),
}  # fmt: skip
INPUT: Words = {
    "description": Word("What it is for.", TEXT),
    "type": Word("Type of the value.", one_of("string", "number", "boolean", "choice", "json")),
    "required": Word("Whether a run must give it.", BOOLEAN),
    "default": Word("Value of a run that gives none.", JSON),
    "options": Word("The values of `type: choice`.", TEXTS),
    "deprecationMessage": Word("Taken as GitHub takes it; has no effect.", TEXT),
}
CONCURRENCY: Words = {
    "group": Word("Name of the group; may hold expressions.", TEXT),
    "cancel-in-progress": Word("Cancel who holds the group, instead of waiting.", FLAG),
    "queue": Word("Who waits: the newest alone (`single`), or all (`max`).",
                  one_of("single", "max")),
    "limit": Word("How many may hold the group at a time; without it, one.",
                  integer(1, 1_000_000)),
}  # fmt: skip
CACHE: Words = {
    "key": Word("What the result depends on; may hold expressions, but no `hashFiles`.", TEXT),
    "ttl": Word("How long a result is kept; without it, until there is no room.", DURATION),
}
LOCK: Words = {
    "name": Word("Name of the lock; may hold expressions.", TEXT),
    "ttl": Word("It is lost after this time, and its holder stopped; without it, never.", DURATION),
    "timeout": Word("The longest wait for it; then the step fails.", DURATION),
}
RATE_LIMIT: Words = {
    "key": Word("What is counted together; may hold expressions.", TEXT),
    "limit": Word("How many begin in any period of this length.", integer(1, 1_000_000)),
    "per": Word("The period: `1s`, `1m`, `1d`.", DURATION),
    "timeout": Word("The longest wait; then the step fails. Not of a whole workflow.", DURATION),
}
DEFAULTS: Words = {"run": Word("Defaults of `run:` steps.", ref("defaults-run"))}
DEFAULTS_RUN: Words = {
    "shell": Word("As `shell` of a step.", SHELL),
    "working-directory": Word("As `working-directory` of a step.", TEXT),
}
RETRY: Words = {
    "max-attempts": Word("Attempts in all, the first included.", integer(1, 1_000_000)),
    "backoff": Word("How the pause between attempts grows.",
                    one_of("fixed", "exponential", "random")),
    "initial": Word("The first pause.", DURATION),
    "factor": Word("What `exponential` multiplies the pause by.", number(1, 1_000)),
    "max": Word("The longest pause.", DURATION),
    "jitter": Word("Share of the pause that chance decides: 0 to 1.", number(0, 1)),
    "max-elapsed": Word("No attempt begins later than this after the first.", DURATION),
    "on": Word("Only these types of errors are retried.", TEXTS),
    "not-on": Word("These types of errors are not retried.", TEXTS),
}  # fmt: skip
ON_FAILURE: Words = {
    "action": Word("retry, skip, abort, fail, compensate, compensate-and-retry, or `run NAME`.",
                   TEXT),
    "max-rounds": Word("How often `compensate-and-retry` does it in all; without it, 3.",
                       integer(1, 1_000)),
}  # fmt: skip
_NODE: Words = {
    "on-failure": Word("What follows a failure, when its retries are used up.", _ON_FAILURE),
    "if": Word("Condition; `success()` is implied unless a status function stands in it.",
               CONDITION),
    "name": Word("Name that people see; may hold expressions.", TEXT),
    "continue-on-error": Word("A failure counts as success for those that come after.", FLAG),
    "timeout-minutes": Word("It fails after so many minutes, all attempts included.", MINUTES),
    "trigger-rule": Word("What must have become of the needs, instead of `success()`.",
                         _TRIGGER_RULE),
}  # fmt: skip
JOB: Words = _NODE | _GATES | {
    "needs": Word("Jobs that must have ended first.", TEXTS),
    "runs-on": Word("One label or a list: the job's worker must offer all of them. Or a mapping.",
                    _RUNS_ON),
    "sticky": _STICKY,
    "strategy": Word("A matrix of legs of this job.", ref("strategy")),
    "env": Word("Environment of the job's steps.", ENVIRONMENT),
    "defaults": Word("Defaults of the job's `run:` steps.", ref("defaults")),
    "outputs": Word("Outputs by name, read as `needs.JOB.outputs.NAME`.", ENVIRONMENT),
    "cancel-timeout-minutes": Word("How long steps may still run after a cancel: those that are "
                                   "being stopped, and `always()` ones.", MINUTES),
    "concurrency": Word("Jobs of one group, one after the other.", _CONCURRENCY),
    "on-worker-loss": Word("What happens when the job's worker is lost, and its folder with it; "
                           "with `all: true` only `fail` and `skip`.",
                           one_of("restart-job", "continue", "fail", "skip")),
    "retry": Word("Retries of every step that has no `retry` of its own.", _RETRY),
    "steps": Word("The steps, one after the other, on one worker and in one folder.",
                  ref("steps")),
    "uses": Word("A workflow to call: `./file.yaml`, relative to this one, or a registered `NAME` "
                 "or `NAME@VERSION`.", TEXT),
    "with": Word("Inputs of the called workflow.", VALUES),
    "secrets": Word("Secrets of the called workflow by name, or `inherit`.",
                    either({"const": "inherit"}, ENVIRONMENT)),
}  # fmt: skip
STRATEGY: Words = {
    "matrix": Word("Axes by name; one leg for each combination, `include` and `exclude` applied.",
                   ref("matrix")),
    "fail-fast": Word("A leg that fails cancels the others; true unless you say false.", FLAG),
    "max-parallel": Word("Legs at a time.", COUNT),
}  # fmt: skip
TASK_FIELDS: Words = {
    "env": Word("Environment of the step.", ENVIRONMENT),
    "retry": Word("Retries: the number of attempts, or a policy.", _RETRY),
    "effect": Word("Whether a lost attempt may be run again.",
                   one_of("at-least-once", "at-most-once")),
    "compensate": Word("What undoes this step once it has completed: a step, or a list.",
                       either(VALUES, items(VALUES))),
    "on-unknown": Word("When nobody knows what became of an `at-most-once` step: `fail`, `wait` "
                       "for a person, or `run NAME`.", TEXT),
    "cache": Word("Its result is that of an earlier step with this key that does the same.",
                  either(TEXT, ref("cache"))),
    "priority": Word("Higher ones start first.", integer(-1_000_000, 1_000_000)),
    "heartbeat-timeout": Word("The attempt fails when its code is silent for so long.", DURATION),
    "schedule-timeout": Word("The longest wait for a worker.", DURATION),
    "attempt-timeout": Word("The longest time of one attempt.", DURATION),
}  # fmt: skip
STEP: Words = _NODE | _GATES | TASK_FIELDS | {
    "id": Word("Name in expressions and paths: `steps.ID.outputs.NAME`.", TEXT),
    "uses": Word("A handler: `http/request`, `file/copy`, …; see `flowctl handlers`.",
                 ref("handler")),
    "with": Word("The handler's inputs.", VALUES),
    "runs-on": Word("With `all: true`: once on every worker of a group.", ref("runs-on")),
    "run": Word("A script.", TEXT),
    "shell": Word("bash, sh, python, pwsh, or a command with {0} for the script's file.", SHELL),
    "working-directory": Word("Folder to run in, relative to the job's.", TEXT),
    "parallel": Word("Steps side by side.", ref("steps")),
    "pipeline": Word("Steps one after the other, as one step.", ref("steps")),
    "join": Word("How many must succeed: all, any, a number, a percentage.", JOIN),
    "losers": Word("What becomes of those that are not needed any more.",
                   one_of("cancel", "detach", "await")),
    "loop": Word("Steps several times.", ref("loop")),
    "choose": Word("The first branch whose condition holds.", ref("branches")),
    "then": Word("Steps for when `if` holds.", ref("steps")),
    "elif": Word("Further branches, each with `if` and `then`.",
                 either(ref("elif"), items(ref("elif")))),
    "else": Word("Steps for when nothing else holds.", ref("steps")),
    "wait-for": Word("Wait for a signal: its name, or a mapping.", either(TEXT, ref("wait"))),
    "approval": Word("Wait until a person agrees.", either(TEXT, ref("approval"))),
    "sleep": Word("Wait for a time, without a worker.",
                  either(DURATION_OR_EXPRESSION, ref("sleep"))),
    "background": Word("Steps behind it do not wait for it.", BOOLEAN),
    "wait": Word("Wait for background steps, by their ids.", TEXTS),
    "wait-all": Word("Wait for all background steps before it.", BOOLEAN),
    "cancel": Word("Stop background steps, by their ids, and wait until they are dead.", TEXTS),
    "subworkflow": Word("Another workflow, as a run of its own.",
                        either(TEXT, ref("subworkflow"))),
}  # fmt: skip
RUNS_ON: Words = {
    "group": Word("A label that the workers of the group offer.", TEXTS),
    "labels": Word("Further labels that a worker must offer: all of them.", TEXTS),
    "all": Word("Once on every live worker of the group.", BOOLEAN),
    "max-parallel": Word("With `all`: workers at a time; without it, all at once.", COUNT),
    "fail-fast": Word("With `all`: a worker that fails cancels the others.", FLAG),
    "join": STEP["join"],
    "losers": STEP["losers"],
    "on-worker-loss": Word("With `all`: what becomes of the part of a worker that does not come "
                           "back: it fails, or is skipped.", one_of("fail", "skip")),
}  # fmt: skip
SUBWORKFLOW: Words = {
    "uses": Word("The workflow: `./file.yaml`, or a registered `NAME` or `NAME@VERSION`.", TEXT),
    "with": Word("Its inputs.", VALUES),
    "detached": Word("Nobody waits for its end.", BOOLEAN),
}
LOOP: Words = {
    "for-each": Word("A list, or an expression that gives one.", either(
        items(JSON), ref("expression"))),
    "as": Word("Name of the item in expressions; without it, `item`.", TEXT),
    "max-parallel": Word("Iterations at a time; without it, all.", COUNT),
    "fail-fast": Word("An iteration that fails cancels the others.", FLAG),
    "join": STEP["join"],
    "losers": STEP["losers"],
    "while": Word("Goes on while this holds; asked before each iteration.", CONDITION),
    "until": Word("Ends when this holds; asked after each iteration.", CONDITION),
    "repeat": Word("How many iterations.", COUNT),
    "max-iterations": Word("With more iterations the loop fails.", integer(1, 100_000)),
    "steps": Word("The body: steps one after the other.", ref("steps")),
    "tasks": Word("The body: tasks by their `depends_on`.", ref("tasks")),
}  # fmt: skip
ELIF: Words = {"if": Word("Condition of the branch.", CONDITION), "then": STEP["then"]}
BRANCH: Words = {
    "if": Word("Condition of the branch.", CONDITION),
    "else": Word("`true`: the last branch, for when no other holds.", {"const": True}),
    "steps": LOOP["steps"],
    "tasks": LOOP["tasks"],
}
WAIT: Words = {
    "signal": Word("Name of the signal; may hold expressions.", TEXT),
    "correlation-key": Word("Only a signal that names the same key is taken.", TEXT),
    "timeout": Word("How long.", DURATION_OR_EXPRESSION),
    "default": Word("Outcome at the timeout; without it the step fails then.", JSON),
}
APPROVAL: Words = WAIT | {"name": Word("As `signal`.", TEXT)}
SLEEP: Words = {
    "for": Word("How long.", DURATION_OR_EXPRESSION),
    "duration": Word("As `for`.", DURATION_OR_EXPRESSION),
    "until": Word("Until when: `2027-01-31T08:00:00Z`, or an expression.", TEXT),
}
TASK: Words = STEP | LOOP | APPROVAL | SLEEP | {
    "name": Word("Name in `depends_on`, expressions and paths.", TEXT),
    "title": Word("Name that people see; may hold expressions.", TEXT),
    "description": Word("What it is for.", TEXT),
    "type": Word("A handler, or what the engine does itself: parallel, loop, wait, ….",
                 ref("task-type")),
    "depends-on": Word("Tasks that must have ended first.", TEXTS),
    "needs": Word("As `depends_on`.", TEXTS),
    "uses": SUBWORKFLOW["uses"],
    "detached": SUBWORKFLOW["detached"],
    "config": Word("The handler's inputs, or the settings of the type.", VALUES),
    "with": Word("As `config`.", VALUES),
    "if": STEP["if"],
    "timeout": Word("It fails after this time: `90s`, `1h30m`.", DURATION_OR_EXPRESSION),
    "runs-on": Word("Labels that a worker must offer: all of them. Or a mapping.", _RUNS_ON),
    "sticky": _STICKY,
    "branches": Word("As `choose`.", ref("branches-of-tasks")),
    "choose": Word("The first branch whose condition holds.", ref("branches-of-tasks")),
    "then": Word("Tasks for when `if` holds.", ref("tasks")),
    "elif": Word("Further branches, each with `if` and `then`.",
                 either(ref("elif-of-tasks"), items(ref("elif-of-tasks")))),
    "else": Word("Tasks for when nothing else holds.", ref("tasks")),
    "steps": Word("Tasks one after the other.", ref("tasks")),
    "tasks": Word("Tasks by their `depends_on`.", ref("tasks")),
}  # fmt: skip

ELIF_OF_TASKS: Words = ELIF | {"then": TASK["then"]}

OTHERS: Mapping[str, Fragment] = {
    "inputs": named(ref("input")),
    "call-outputs": named(ref("call-output")),
    "call-secrets": named(ref("call-secret")),
    "jobs": {"type": "object", "minProperties": 1, "additionalProperties": ref("job")},
    "steps": items(ref("step"), least=1),
    "tasks": either(
        items(ref("task"), least=1),
        {"type": "object", "minProperties": 1, "additionalProperties": ref("task")},
    ),
    "branches": items(ref("branch"), least=1),
    "branches-of-tasks": items(ref("branch-of-tasks"), least=1),
    "matrix": either(
        ref("expression"),
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": either(ref("expression"), {"type": "array", "minItems": 1}),
        },
    ),
}
"""Values that are no mappings of fixed keys."""
