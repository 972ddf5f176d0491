"""Registered definitions: names and versions of plans in the system shard."""

from typing import Any

import pytest

from headrace.coordinator.core import Refusal, state_hash
from headrace.coordinator.core.limits import Limits
from headrace.coordinator.core.state import IDLE_PLANS_MAX
from headrace.messages import (
    DefinitionView,
    DeleteDefinition,
    GetDefinition,
    ListDefinitions,
    RegisterDefinition,
)
from headrace.plan import Plan, decode_plan, encode_plan
from support.corekit import NAMESPACE, Kit, restored
from support.plans import plan, task

ONE, TWO = plan(task("a")), plan(task("b"))


@pytest.fixture
def kit() -> Kit:
    return Kit(0)


def ask(kit: Kit, request: Any, namespace: str = NAMESPACE) -> Any:
    return kit.tick(lambda m: m.request(namespace, request))


def register(kit: Kit, found: Plan, version: str = "", name: str = "order", **options: Any) -> Any:
    namespace = options.pop("namespace", NAMESPACE)
    options.setdefault("request_id", kit.request_id())
    options.setdefault("not_after_ms", kit.now_ms + 60_000)
    request = RegisterDefinition(name=name, plan=encode_plan(found), version=version, **options)
    return ask(kit, request, namespace)


def delete(kit: Kit, version: str = "", name: str = "order", **options: Any) -> Any:
    options.setdefault("request_id", kit.request_id())
    options.setdefault("not_after_ms", kit.now_ms + 60_000)
    return ask(kit, DeleteDefinition(name=name, version=version, **options))


def get(kit: Kit, version: str = "", name: str = "order") -> Any:
    return ask(kit, GetDefinition(name=name, version=version))


def versions(kit: Kit, name: str = "") -> list[str]:
    found = ask(kit, ListDefinitions(name=name))
    return [f"{view.name}@{view.version}{'*' * view.latest}" for view in found]


def test_without_a_version_it_is_the_next_number(kit: Kit) -> None:
    first = register(kit, ONE)
    assert (first.version, first.latest, first.number) == ("1", True, 1)
    assert register(kit, TWO).version == "2"
    assert versions(kit) == ["order@2*", "order@1"]
    view = get(kit)
    assert isinstance(view, DefinitionView)
    assert decode_plan(view.plan) == TWO
    assert decode_plan(get(kit, "1").plan) == ONE


def test_the_same_again_changes_nothing(kit: Kit) -> None:
    register(kit, ONE)
    register(kit, ONE, "1.0")
    before = len(kit.log)
    assert register(kit, ONE).version == "1.0"
    assert register(kit, ONE, "1").version == "1"
    assert len(kit.log) == before
    assert versions(kit) == ["order@1.0*", "order@1"]


def test_going_back_to_an_older_content_is_a_new_version(kit: Kit) -> None:
    register(kit, ONE)
    register(kit, TWO)
    assert register(kit, ONE).version == "3"


def test_a_version_never_changes_its_content(kit: Kit) -> None:
    register(kit, ONE, "1.0")
    refused = register(kit, TWO, "1.0")
    assert refused.code == "conflict"
    assert "another content" in refused.message
    assert decode_plan(get(kit, "1.0").plan) == ONE


def test_a_request_that_is_sent_again_is_answered_again(kit: Kit) -> None:
    first = register(kit, ONE, request_id="q")
    register(kit, TWO)
    assert register(kit, ONE, request_id="q").version == first.version == "1"
    assert versions(kit) == ["order@2*", "order@1"]
    delete(kit, request_id="d")
    assert delete(kit, request_id="d") == []
    assert register(kit, ONE, request_id="q").code == "not-found"
    assert versions(kit) == []


def test_a_request_that_comes_too_late_does_nothing(kit: Kit) -> None:
    assert register(kit, ONE, not_after_ms=kit.now_ms - 1).code == "too-late"
    register(kit, ONE)
    assert delete(kit, not_after_ms=kit.now_ms - 1).code == "too-late"
    assert versions(kit) == ["order@1*"]


def test_deleting_a_version_makes_the_one_before_it_the_newest(kit: Kit) -> None:
    register(kit, ONE)
    register(kit, TWO)
    assert [view.version for view in delete(kit, "2")] == ["2"]
    assert versions(kit) == ["order@1*"]
    assert register(kit, TWO, "0.9").number == 3, "a number is never used twice"
    assert [view.version for view in delete(kit)] == ["1", "0.9"]
    assert kit.machine.state.definitions == {}


def test_what_is_not_there_is_named_with_what_is(kit: Kit) -> None:
    assert get(kit).message == "no definition order in namespace default (registered: nothing)"
    register(kit, ONE, "1.0")
    assert "did you mean order?" in get(kit, name="oder").message
    assert get(kit, "3").message == "no version 3 of definition order (registered: 1.0)"
    assert delete(kit, "3").code == ask(kit, ListDefinitions(name="x")).code == "not-found"


def test_namespaces_do_not_see_each_other(kit: Kit) -> None:
    register(kit, ONE)
    register(kit, TWO, namespace="other")
    assert versions(kit) == ["order@1*"]
    assert decode_plan(get(kit).plan) == ONE


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a@1", "x" * 129])
def test_what_cannot_be_a_name_is_refused(kit: Kit, name: str) -> None:
    assert register(kit, ONE, name=name).code == "invalid-request"


@pytest.mark.parametrize("version", ["a b", "-1", "@", "x" * 65])
def test_what_cannot_be_a_version_is_refused(kit: Kit, version: str) -> None:
    assert register(kit, ONE, version).code == "invalid-request"


def test_only_the_system_shard_has_them() -> None:
    other = Kit(1)
    for found in (register(other, ONE), get(other), delete(other), ask(other, ListDefinitions())):
        assert isinstance(found, Refusal)
        assert found.code == "invalid-request"


def test_what_is_no_plan_is_refused(kit: Kit) -> None:
    request = RegisterDefinition(name="a", plan=b"x", request_id="q", not_after_ms=kit.now_ms)
    assert ask(kit, request).code == "invalid-definition"


def test_there_is_a_limit() -> None:
    kit = Kit(0, limits=Limits(definitions=2))
    register(kit, ONE)
    register(kit, TWO)
    assert register(kit, ONE, "3").code == "limit-exceeded"
    assert register(kit, ONE, "1").version == "1"


def test_a_plan_is_kept_while_it_is_registered(kit: Kit) -> None:
    digest = register(kit, ONE).digest
    other = register(kit, TWO, name="other").digest
    for count in range(IDLE_PLANS_MAX + 10):
        kit.store(plan(task(f"x{count}")))
    assert {digest, other} <= kit.machine.state.plans.keys()
    kit.kill(snapshot=True)
    delete(kit)
    for count in range(IDLE_PLANS_MAX + 10):
        kit.store(plan(task(f"y{count}")))
    assert digest not in kit.machine.state.plans
    assert other in kit.machine.state.plans


def test_a_takeover_and_a_snapshot_keep_them(kit: Kit) -> None:
    register(kit, ONE, "b")
    register(kit, TWO, "a", actor="ada")
    delete(kit, "b")
    register(kit, ONE, "c")
    before = versions(kit)
    kit.kill()
    kit.kill(snapshot=True)
    assert versions(kit) == before == ["order@c*", "order@a"]
    assert get(kit, "a").actor == "ada"
    assert state_hash(restored(kit.folded())) == state_hash(kit.machine.state)
