"""`submit` and `rerun`: commands that start a run, and may wait for it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.flowctl._inputs import collect_inputs, input_options, parse_labels
from headrace.flowctl._output import emit_run, exit_code_of
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, note_trouble, pass_settings, run_client, shared_options

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import RunView
    from headrace.plan import Plan

Command = TypeVar("Command", bound=Callable[..., Any])


def follow_options(function: Command) -> Command:
    """Add `--wait` and `--watch`."""
    function = click.option(
        "--watch", is_flag=True, help="Show the run live until it ends; exits as --wait does."
    )(function)
    return click.option(
        "--wait",
        is_flag=True,
        help="Return when the run has ended: exit 0 completed, 1 failed, 2 cancelled.",
    )(function)


async def check_handlers(client: Client, file: str, plan: Plan) -> None:
    """Raise `InvalidDefinition` if *file* uses what no worker online offers."""
    from headrace.flowctl._definitions import custom_handlers, load_definition

    if not custom_handlers(plan):
        return
    info = await client.info(workers=True)
    # Compiled again for the place and the suggestion; nothing has been sent yet.
    offered = {
        name
        for worker in info.workers
        if worker.namespace == client.namespace
        for name in worker.handlers
    }
    load_definition(file, handlers=offered)


async def followed(client: Client, run: RunView, *, wait: bool, watch: bool) -> RunView:
    """Return *run*, or, if the user wants to wait, the run as it ended."""
    import asyncio

    try:
        return await _followed(client, run, wait=wait, watch=watch)
    except asyncio.CancelledError:
        note(f"run {run.id} goes on; `flowctl get {run.id} --watch` follows it")
        raise


async def _followed(client: Client, run: RunView, *, wait: bool, watch: bool) -> RunView:
    if watch:
        from headrace.flowctl._live import Progress

        progress = Progress()

        def trouble(error: Exception) -> None:
            progress.note(f"waiting for the cluster to answer again: {error}")

        return await progress.follow(client.watch(run.id, on_trouble=trouble))
    if wait:
        from headrace.flowctl._text import one_line
        from headrace.flowctl._views import state_text

        def rest(view: RunView) -> None:
            note(f"run {view.id} {state_text(view)}: {one_line(view.reason)}")

        return await client.wait(run.id, on_trouble=note_trouble, on_rest=rest)
    return run


def finish(settings: Settings, run: RunView, *, followed: bool) -> None:
    """Print the run; a followed one decides the exit code."""
    code = exit_code_of(run.state) if followed else 0
    try:
        emit_run(settings, run)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads what the run was; how it ended is said all the same.
        if not code:
            raise
    if code:
        raise click.exceptions.Exit(code)


@click.command()
@click.argument("target", metavar="FILE|NAME[@VERSION]|MODULE:FUNCTION")
@input_options
@click.option("--id", "run_id", default="", metavar="ID", help="Choose the run's id.")
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="A label.")
@click.option("--priority", type=int, default=0, help="Higher goes first (default: 0).")
@click.option(
    "--fairness-key", default="", metavar="KEY", help="Runs of equal priority take turns by key."
)
@click.option(
    "--fairness-weight",
    type=click.FloatRange(0.001, 1_000),
    default=None,
    help="How much larger the key's turn is (default: 1).",
)
@click.option(
    "--durability",
    type=click.Choice(["journal", "snapshot", "memory"]),
    default="journal",
    help="How much of the run survives a crash (default: journal, everything).",
)
@click.option(
    "--allow-unknown", is_flag=True, help="Also take handlers that no worker online offers."
)
@follow_options
@shared_options
@pass_settings
def submit(
    settings: Settings,
    target: str,
    inputs: tuple[str, ...],
    input_file: str | None,
    run_id: str,
    labels: tuple[str, ...],
    priority: int,
    fairness_key: str,
    fairness_weight: float | None,
    durability: str,
    allow_unknown: bool,
    wait: bool,
    watch: bool,
) -> None:
    """Start a run of the workflow in FILE, of what is registered as NAME, or of a Python function.

    What exists as a file is a file; without VERSION the newest one is taken. A workflow function is
    `package.module:function` or `package.module:app/workflow`; a worker must serve its app. The
    same --id with the same definition and input returns the existing run.

    \b
    Examples:
      flowctl submit order.yaml --watch
      flowctl submit order@1.2 --watch
      flowctl submit shop.orders:order_processing --input order_id=o-7
      flowctl submit order.yaml --input count=3 --input note=@note.txt
      flowctl submit order.yaml --input-file order.json --wait -o json
      RUN=$(flowctl submit order.yaml -o name)
    """
    marks = parse_labels(labels)
    ask = _asked(target, inputs, input_file, allow_unknown=allow_unknown)

    async def action(client: Client) -> RunView:
        plan, values = await ask(client)
        run = await client.submit(
            plan,
            values,
            run_id=run_id,
            labels=marks,
            priority=priority,
            fairness=(fairness_key, fairness_weight or 0.0),
            durability=durability,
        )
        return await followed(client, run, wait=wait, watch=watch)

    finish(settings, run_client(settings, action), followed=wait or watch)


def _asked(
    target: str, inputs: tuple[str, ...], input_file: str | None, *, allow_unknown: bool
) -> Callable[[Client], Awaitable[tuple[Plan, dict[str, Any]]]]:
    """Return what finds plan and input. A file, or code, with mistakes is refused at once."""
    from headrace.flowctl._code import collect_arguments, is_code, load_workflow
    from headrace.flowctl._definitions import is_file, load_definition, looked_up, registered_plan

    if is_code(target):
        workflow = load_workflow(target)
        arguments = collect_arguments(workflow, inputs, input_file)

        async def of_code(_client: Client) -> tuple[Plan, dict[str, Any]]:
            return workflow.plan, arguments

        return of_code
    if not is_file(target):

        async def of_name(client: Client) -> tuple[Plan, dict[str, Any]]:
            plan = await registered_plan(client, target)
            return plan, collect_inputs(plan, inputs, input_file)

        return of_name
    written = load_definition(target, allow_unknown=True)
    given = collect_inputs(written, inputs, input_file)

    async def of_file(client: Client) -> tuple[Plan, dict[str, Any]]:
        plan = await looked_up(client, target, written)
        if not allow_unknown:
            await check_handlers(client, target, plan)
        return plan, given

    return of_file


@click.command()
@click.argument("run")
@click.option("--failed", is_flag=True, help="Take over the results of the steps that completed.")
@click.option(
    "--from",
    "from_step",
    default="",
    metavar="STEP",
    help="Run this step (a path) and what comes after it; take over the other results.",
)
@click.option("--id", "run_id", default="", metavar="ID", help="Choose the new run's id.")
@follow_options
@shared_options
@pass_settings
def rerun(
    settings: Settings,
    run: str,
    failed: bool,
    from_step: str,
    run_id: str,
    wait: bool,
    watch: bool,
) -> None:
    """Start a new run like RUN, with the same plan, input and labels.

    What is taken over does not run again. A job of several steps is taken over as a whole or not
    at all, since its workspace is gone; waits and sleeps begin anew.

    \b
    Examples:
      flowctl rerun 01k3x… --failed --watch
      flowctl rerun 01k3x… --from build/test
    """
    if failed and from_step:
        raise click.UsageError("--from says where to begin, --failed at what failed: choose one")

    async def action(client: Client) -> RunView:
        new = await client.rerun(run, failed=failed, from_step=from_step, run_id=run_id)
        return await followed(client, new, wait=wait, watch=watch)

    finish(settings, run_client(settings, action), followed=wait or watch)


@click.command()
@click.argument("run")
@click.option(
    "--to",
    "to_event",
    type=click.IntRange(min=1),
    required=True,
    metavar="EVENT",
    help="Take over what was recorded up to this event (`flowctl history` shows the numbers).",
)
@click.option("--cancel", is_flag=True, help="Cancel RUN first if it has not ended.")
@click.option("--id", "run_id", default="", metavar="ID", help="Choose the new run's id.")
@follow_options
@shared_options
@pass_settings
def reset(
    settings: Settings,
    run: str,
    to_event: int,
    cancel: bool,
    run_id: str,
    wait: bool,
    watch: bool,
) -> None:
    """Start a new run that goes on from where RUN was at an event.

    It has the plan, input and labels of RUN, and takes over as `flowctl rerun` does.

    \b
    Examples:
      flowctl reset 01k3x… --to 12 --watch
      flowctl reset 01k3x… --to 12 --cancel
    """

    async def action(client: Client) -> RunView:
        new = await client.reset(run, to_event=to_event, cancel=cancel, run_id=run_id)
        return await followed(client, new, wait=wait, watch=watch)

    finish(settings, run_client(settings, action), followed=wait or watch)
