"""Operations that are runs of their own: children, handlers, remote steps, plans."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from headrace.errors import InvalidRequest
from headrace.messages import subjects
from headrace.plan import Plan, encode_plan, validate_plan
from headrace.sdk import _codec
from headrace.sdk._entries import Child, StepElsewhere
from headrace.sdk._execution import Execution
from headrace.sdk._plans import code_plan, task_plan
from headrace.sdk._remote import NAME, RESULT, inputs_of
from headrace.sdk._retry import Retry
from headrace.sdk._workflow import Workflow, check_workflow

if TYPE_CHECKING:
    from headrace.sdk._step import Step


def _input(name: str) -> str:
    """Return the expression for input *name*: data of users never becomes part of a plan."""
    return "${{ inputs['" + name.replace("'", "''") + "'] }}"


def call(
    execution: Execution,
    runs_on: tuple[str, ...],
    handler: str,
    inputs: dict[str, Any],
    *,
    result: Any,
    key: str,
    retry: Retry | None,
    timeout_ms: int,
    schedule_timeout_ms: int,
) -> Child[Any]:
    """Return the operation of `Context.call`."""
    data = _codec.encode(inputs)

    def plan() -> bytes:
        return encode_plan(
            task_plan(
                name=handler,
                uses=handler,
                inputs={name: _input(name) for name in inputs},
                runs_on=runs_on,
                retry=retry.policy if retry is not None else None,
                timeout_ms=timeout_ms,
                schedule_timeout_ms=schedule_timeout_ms,
            )
        )

    digest = _codec.digest(handler.encode() + b"\0" + data)
    return Child(
        execution,
        key or execution.key(f"call:{handler}"),
        handler,
        plan,
        data,
        digest=digest,
        result=result,
    )


def step(
    execution: Execution,
    key: str,
    step: Step[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> StepElsewhere[Any]:
    """Return the operation of a step with `runs_on`."""
    options = step.options_
    data = _codec.encode(inputs_of(step, key, args, kwargs))

    def plan() -> bytes:
        return encode_plan(
            code_plan(
                app=step.app,
                version=step.version,
                name=step.name,
                function=NAME,
                runs_on=options.runs_on,
                schedule_timeout_ms=options.schedule_timeout_ms,
            )
        )

    digest = _codec.digest(step.signature.packed(args, kwargs))
    return StepElsewhere(
        execution,
        key,
        step.name,
        plan,
        data,
        digest=digest,
        result=step.signature.result,
        unwrap=RESULT,
    )


def child(
    execution: Execution,
    workflow: Workflow[Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    detached: bool,
) -> Child[Any]:
    """Return the operation of `Context.child` and `start_child`."""
    check_workflow(workflow)
    data = workflow.signature.as_map(args, kwargs)
    key = workflow.options_.key or execution.key(f"child:{workflow.name}")
    id = workflow.options_.id
    if detached and not id:
        text = f"{execution.run}\0{execution.generation}\0{key}"
        id = "c-" + hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    if id and not subjects.valid_name(id):
        raise InvalidRequest(f"not a run id: {id!r} (letters, digits, - and _, at most 128)")
    return Child(
        execution,
        key,
        workflow.name,
        lambda: workflow.encoded_plan,
        data,
        digest=_codec.digest(data),
        result=workflow.signature.result,
        unwrap=RESULT,
        id=id,
        detached=detached,
    )


def run_plan(
    execution: Execution, plan: Plan | str, inputs: dict[str, Any], *, key: str
) -> Child[Any]:
    """Return the operation of `Context.run_plan`."""
    data = _codec.encode(inputs)
    given = plan.encode() if isinstance(plan, str) else encode_plan(plan)

    def checked() -> bytes:
        if isinstance(plan, str):
            from headrace.language import compile_workflow

            return encode_plan(compile_workflow(plan, file="<plan>", allow_unknown=True))
        validate_plan(plan)
        return encode_plan(plan)

    name = "plan" if isinstance(plan, str) else plan.name
    return Child(
        execution,
        key or execution.key("plan"),
        name,
        checked,
        data,
        # Of what was given: another release may compile the same text to another plan.
        digest=_codec.digest(given + b"\0" + data),
    )
