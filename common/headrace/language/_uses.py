"""Jobs that call a workflow: `uses`, `with` and `secrets` against what it declares.

A called file becomes part of the caller's run. A registered workflow is a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from headrace.language._calls import FoundPlan
from headrace.language._contexts import JOB, JOB_ENV
from headrace.language._draft import Draft
from headrace.language._reader import Reader, shape
from headrace.language._report import Place, did_you_mean
from headrace.language._scope import Known, Scope
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Tree, to_json
from headrace.plan import Call, Group, InputSpec, SecretSpec, Subworkflow, encode_plan
from headrace.plan._inputs import Unfit, coerce_input
from headrace.plan._validate import SUBPLAN_BYTES_MAX


class Called(NamedTuple):
    """A workflow that was read in order to be called."""

    file: str
    body: Draft
    inputs: dict[str, InputSpec]
    secrets: dict[str, SecretSpec]
    outputs: dict[str, Any]
    fields: dict[str, Any]
    """What stands at its root: `env`, `vars`, `concurrency`, …"""


FindCalled = Callable[[str, Tree], Called | None]
"""Reads the workflow that `uses:` names; None: what is wrong is noted."""


FindPlan = Callable[[str, Tree], FoundPlan | None]
"""Returns the workflow that a name or a path means, compiled; None: what is wrong is noted."""
_CHILD = "run"
"""Name of the node that runs a registered workflow, in its job."""


def embedded(reader: Reader, found: FoundPlan, at: Tree) -> dict[str, Any]:
    """Return the fields of a subworkflow that runs *found*."""
    data = b"" if found.plan is None else encode_plan(found.plan)
    if len(data) > SUBPLAN_BYTES_MAX:
        limit = f"SUBPLAN_BYTES_MAX = {SUBPLAN_BYTES_MAX}"
        reader.report.add(f"'{found.source}' is too large, {len(data)} bytes: {limit}", at)
    return {"plan": data, "source": found.source}


def read_child(
    reader: Reader,
    find: FindPlan,
    entries: Mapping[str, Tree],
    draft: Draft,
    what: str,
    scope: Scope,
) -> Known | None:
    """Make *draft*, the group of a job, run a registered workflow as a run of its own.

    Return the outputs that it has; None: they are not known yet.
    """
    uses = entries["uses"]
    name = reader.text(uses, f"{what}.uses")
    given = entries.get("with")
    child = Draft(Subworkflow, _CHILD, uses, plan=b"", source=name)
    child.fields["inputs"] = _given(reader, given, f"{what}.with", scope.at(JOB))
    draft.children = [child]
    secrets = entries.get("secrets")
    if secrets is not None and not (isinstance(secrets, Scalar) and secrets.text == "inherit"):
        hint = "it takes the secrets of the workers that it runs on"
        reader.report.add(f"'{name}' is a run of its own, and is given no 'secrets'", secrets, hint)
    found = find(name, uses)
    if found is None:
        return None
    child.fields |= embedded(reader, found, uses)
    if found.plan is None:
        return None
    if found.plan.inputs:
        check_given(reader, found.source, found.plan.inputs, given, uses, f"{what}.with")
    root = found.plan.nodes[0]
    outputs = root.outputs if isinstance(root, Group) else {}
    draft.fields["outputs"] = {
        output: f"${{{{ steps.{_CHILD}.outputs.{output} }}}}" for output in outputs
    }
    return {output.lower(): output for output in outputs}


def read_call(
    reader: Reader,
    find: FindCalled,
    entries: Mapping[str, Tree],
    draft: Draft,
    what: str,
    scope: Scope,
) -> Called | None:
    """Make *draft*, the group of a job that calls a workflow, out of its keys.

    The jobs of the workflow become its children.
    """
    uses = reader.text(entries["uses"], f"{what}.uses")
    given = _given(reader, entries.get("with"), f"{what}.with", scope.at(JOB))
    secrets = _secrets(reader, entries.get("secrets"), f"{what}.secrets", scope.at(JOB_ENV))
    if not uses:
        reader.report.add(f"{what}.uses names a workflow", entries["uses"], "uses: ./file.yaml")
        return None
    called = find(uses, entries["uses"])
    if called is None:
        return None
    _check_inputs(reader, called, entries, f"{what}.with")
    _check_secrets(reader, called, entries, f"{what}.secrets")
    fields = called.fields
    draft.fields["call"] = Call(
        file=called.file,
        name=fields["name"],
        inputs=called.inputs,
        given=given,
        secrets=secrets,
        env=fields["env"],
        vars=fields["vars"],
        concurrency=fields["concurrency"],
    )
    draft.fields["outputs"] = called.outputs
    if fields["concurrency"] is not None and draft.fields.get("concurrency") is not None:
        hint = f"'{called.file}' has a 'concurrency' of its own: keep one of the two"
        reader.report.add(f"{what} has two concurrency groups", entries["concurrency"], hint)
    if draft.fields.get("timeout_ms") is None:
        draft.fields["timeout_ms"] = fields["timeout_ms"]
    draft.children = called.body.children
    return called


def new_call(name: str, key: Place, **fields: Any) -> Draft:
    """Return the group of a job that calls a workflow, without what is called."""
    return Draft(Group, name, key, kind="graph", **fields)


def _given(reader: Reader, node: Tree | None, what: str, scope: Scope) -> dict[str, Any]:
    reader.mapping(node, what)
    return reader.json(node, what, scope) if isinstance(node, MappingNode) else {}


def _secrets(reader: Reader, node: Tree | None, what: str, scope: Scope) -> dict[str, str] | None:
    if isinstance(node, Scalar) and node.text == "inherit":
        return None
    if isinstance(node, Scalar) and node.value is not None:
        hint = "write 'secrets: inherit', or NAME: ${{ secrets.NAME }}"
        reader.report.add(f"{what} must be a mapping or inherit, not {shape(node)}", node, hint)
        return {}
    return reader.environment(node, what, scope)


def _check_inputs(reader: Reader, called: Called, entries: Mapping[str, Tree], what: str) -> None:
    check_given(reader, called.file, called.inputs, entries.get("with"), entries["uses"], what)


def check_given(
    reader: Reader,
    file: str,
    inputs: Mapping[str, InputSpec],
    node: Tree | None,
    at: Tree,
    what: str,
) -> None:
    """Check what `with:` (*node*) gives against the inputs that the workflow *file* declares."""
    written = node if isinstance(node, MappingNode) else MappingNode(0, 0)
    for name, value in written.entries.items():
        spec = inputs.get(name)
        if spec is None:
            hint = did_you_mean(name, inputs)
            hint = hint or "inputs: " + (", ".join(inputs) or "none")
            reader.report.add(f"'{file}' has no input '{name}'", written.keys[name], hint)
        elif not isinstance(value, Scalar) or "${{" not in value.text:
            _check_value(reader, spec, value, f"{what}.{name}")
    for name, spec in inputs.items():
        if spec.required and spec.default is None and name not in written.entries:
            reader.report.add(f"'{file}' needs the input '{name}'", at, spec.description)


def _check_value(reader: Reader, spec: InputSpec, node: Tree, what: str) -> None:
    if isinstance(node, Scalar) and spec.type in ("string", "choice"):
        value: Any = node.text
    else:
        value = to_json(node)
    try:
        coerce_input(spec, value)
    except Unfit as unfit:
        reader.report.add(f"{what} must be {unfit}, not {shape(node)}", node)


def _check_secrets(reader: Reader, called: Called, entries: Mapping[str, Tree], what: str) -> None:
    node = entries.get("secrets")
    if isinstance(node, Scalar) and node.value is not None:
        return
    written = node if isinstance(node, MappingNode) else MappingNode(0, 0)
    for name in written.entries:
        if name not in called.secrets:
            hint = did_you_mean(name, called.secrets)
            hint = hint or "secrets: " + (", ".join(called.secrets) or "none")
            text = f"'{called.file}' declares no secret '{name}'"
            reader.report.add(text, written.keys[name], hint)
    for name, spec in called.secrets.items():
        if spec.required and name not in written.entries:
            hint = spec.description or f"write 'secrets: {{{name}: ${{{{ secrets.{name} }}}}}}'"
            reader.report.add(f"'{called.file}' needs the secret '{name}'", entries["uses"], hint)
