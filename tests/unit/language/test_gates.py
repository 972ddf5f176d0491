"""`lock` and `rate-limit`: what they become, and what is wrong with them."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow
from headrace.plan import Cache, Group, Lock, RateLimit, Task

STEP = "jobs: {a: {steps: [{run: x, %s}]}}"


def step(written):
    node = compile_workflow(STEP % written).nodes[2]
    assert isinstance(node, Task)
    return node


def test_a_lock_is_a_name_or_a_mapping():
    assert step("lock: db").lock == Lock(name="db")
    found = step("lock: {name: 'db-${{ github.run_id }}', ttl: 10m, timeout: 1h}").lock
    assert found == Lock(name="db-${{ github.run_id }}", ttl_ms=600_000, timeout_ms=3_600_000)


def test_a_cached_result():
    assert step("cache: 'deps-${{ github.run_id }}'").cache == Cache(
        key="deps-${{ github.run_id }}"
    )
    assert step("cache: {key: v1, ttl: 1d}").cache == Cache(key="v1", ttl_ms=86_400_000)


def test_a_rate_limit():
    found = step("rate-limit: {key: api, limit: 10, per: 1m, timeout: 90s}").rate_limit
    assert found == RateLimit(key="api", limit=10, per_ms=60_000, timeout_ms=90_000)


def test_jobs_calls_groups_and_workflows():
    text = """
rate-limit: {key: flow, limit: 1, per: 1s}
jobs:
  a:
    lock: db
    rate-limit: {key: api, limit: 2, per: 1s}
    steps:
      - parallel: [{run: x}]
        lock: inner
"""
    plan = compile_workflow(text)
    assert plan.rate_limit == RateLimit(key="flow", limit=1, per_ms=1_000)
    job, inner = plan.nodes[1], plan.nodes[2]
    assert isinstance(job, Group)
    assert isinstance(inner, Group)
    assert (job.lock, inner.lock) == (Lock(name="db"), Lock(name="inner"))
    assert job.rate_limit == RateLimit(key="api", limit=2, per_ms=1_000)


def test_tasks():
    text = """
tasks:
  - {name: a, type: shell, config: {run: x}, lock: "db-${{ vars.x }}"}
  - {name: b, type: group, tasks: [{name: c, type: noop}], rate_limit: {key: k, limit: 1, per: 1s}}
vars: {x: 1}
"""
    plan = compile_workflow(text)
    assert plan.nodes[1].lock == Lock(name="db-${{ vars.x }}")
    assert plan.nodes[2].rate_limit == RateLimit(key="k", limit=1, per_ms=1_000)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("lock: {ttl: 1m}", "lock needs a 'name'"),
        ("lock: {name: db, ttl: soon}", "lock.ttl must be a duration"),
        ("lock: {name: db, tll: 1m}", "unknown key 'tll'"),
        ("lock: [db]", "lock must be a mapping, not a list"),
        ("lock: 'x-${{ secrets.T }}'", "'secrets' is not available in jobs.a.steps[0].lock"),
        (
            "lock: \"x-${{ hashFiles('a') }}\"",
            "'hashFiles' is not available in jobs.a.steps[0].lock",
        ),
        ("cache: {ttl: 1d}", "cache needs a 'key'"),
        ("cache: {key: v1, ttl: x}", "cache.ttl must be a duration"),
        ("cache: \"${{ hashFiles('a') }}-v1\"", "let a step before it write the hash"),
        ("cache: v1, effect: at-most-once", "cache does not go with 'effect'"),
        ("rate-limit: 10", "rate-limit must be a mapping"),
        ("rate-limit: {key: a, limit: 1}", "rate-limit needs 'per'"),
        ("rate-limit: {key: a, limit: 0, per: 1s}", "limit must be from 1 to 1000000, not 0"),
        ("rate-limit: {key: a, limit: 1, per: 9999d}", "per is at most 366 days"),
        ("rate-limit: {limit: 1, per: 1s}", "rate-limit needs 'key'"),
    ],
)
def test_what_is_wrong_is_said(written, said):
    with pytest.raises(InvalidDefinition) as error:
        step(written)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rate-limit: {key: a, limit: 1, per: 1s, timeout: 1s}\njobs: {a: {steps: [{run: x}]}}",
            "rate-limit of a workflow has no 'timeout'",
        ),
        ("lock: db\njobs: {a: {steps: [{run: x}]}}", "unknown key 'lock' in the workflow"),
        ("jobs: {a: {cache: v1, steps: [{run: x}]}}", "unknown key 'cache'"),
        ("jobs: {a: {steps: [{sleep: 1s, lock: db}]}}", "'lock' does not go with 'sleep'"),
        (
            "tasks: [{name: a, type: sleep, duration: 1s, lock: db}]",
            "'lock' does not go with 'type: sleep'",
        ),
    ],
)
def test_where_it_cannot_stand(text, said):
    with pytest.raises(InvalidDefinition) as error:
        compile_workflow(text)
    assert said in str(error.value)
