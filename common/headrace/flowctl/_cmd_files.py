"""Commands about files: `validate`, `schema`, `graph`, `init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from headrace.flowctl._output import as_json, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, some_options

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import StepView
    from headrace.plan import Plan


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option(
    "--handler", "handlers", multiple=True, metavar="NAME", help="A handler of your own workers."
)
@click.option("--allow-unknown", is_flag=True, help="Take every handler's name.")
@some_options("output")
@pass_settings
def validate(
    settings: Settings, files: tuple[str, ...], handlers: tuple[str, ...], allow_unknown: bool
) -> None:
    """Check workflow files and print every problem; nothing is run or sent.

    With -o json each problem has its file (a called one, if it stands there), line, column, message
    and hint; places count from 1, and 0 is the file as a whole.

    \b
    Examples:
      flowctl validate workflows/*.yaml --handler crm/create-order
      flowctl validate workflow.yaml -o json
    """
    from headrace.errors import HeadraceError, InvalidDefinition
    from headrace.flowctl._definitions import load_definition, open_names

    results: list[dict[str, Any]] = []
    for file in files:
        problems: list[dict[str, Any]] = []
        try:
            plan = load_definition(file, handlers=handlers, allow_unknown=allow_unknown)
            if names := sorted(open_names(plan)):
                note(f"{file}: {', '.join(names)}: looked up when it is submitted or registered")
        except InvalidDefinition as error:
            note(str(error))
            for problem in error.problems:
                fields = ("line", "column", "message", "hint")
                where = {"file": problem.file or file}
                problems.append(where | {name: getattr(problem, name) for name in fields})
        except HeadraceError as error:
            note(str(error) if file in str(error) else f"{file}: {error}")
            none = {"file": file, "line": 0, "column": 0}
            problems.append(none | {"message": str(error), "hint": ""})
        results.append({"file": file, "valid": not problems, "problems": problems})
    bad = [result for result in results if not result["valid"]]
    emit(
        settings,
        results,
        lines=lambda _: [f"{result['file']}: ok" for result in results if result["valid"]],
        names=[result["file"] for result in results if result["valid"]],
    )
    if bad:
        raise click.exceptions.Exit(3)


@click.command()
@click.option(
    "--dialect", type=click.Choice(["jobs", "tasks"]), help="Only this one. Default: both."
)
def schema(dialect: Literal["jobs", "tasks"] | None) -> None:
    """Print the JSON Schema (draft 2020-12) of workflow files, for editors and other programs.

    An editor with it completes keys and handlers and shows what they mean. What compiles fits
    it; `validate` finds more.

    \b
    Examples:
      flowctl schema > workflow.schema.json
      # yaml-language-server: $schema=workflow.schema.json    as first line of a workflow
    """
    from headrace.language import workflow_schema

    click.echo(as_json(workflow_schema(dialect)))


@click.command()
@click.argument("target", metavar="FILE|RUN")
@click.option(
    "--format",
    "-f",
    "form",
    type=click.Choice(["mermaid", "dot", "json", "yaml"]),
    default="mermaid",
    help="Default: mermaid.",
)
@some_options("namespace", "context", "server")
@pass_settings
def graph(settings: Settings, target: str, form: Literal["mermaid", "dot", "json", "yaml"]) -> None:
    """Draw the steps of a workflow file, or of a run with the states of its steps.

    What exists as a file is a file.

    \b
    Examples:
      flowctl graph workflow.yaml
      flowctl graph 01k3x… --format dot | dot -Tsvg > run.svg
    """
    from headrace.language import StepTimes, render_graph

    steps: list[StepView] = []
    if Path(target).exists() or "." in target or "/" in target:
        from headrace.flowctl._definitions import load_definition

        plan = load_definition(target, allow_unknown=True)
    else:
        plan, steps = run_client(settings, lambda client: _plan_of(client, target))
    states = {step.path: step.state for step in steps}
    times = {step.path: StepTimes(step.started_ms, step.finished_ms) for step in steps}
    click.echo(render_graph(plan, form, states, times), nl=False)


async def _plan_of(client: Client, run: str) -> tuple[Plan, list[StepView]]:
    return await client.plan(run), (await client.get(run)).steps


@click.command()
@click.argument("name", type=click.Path(file_okay=False))
def init(name: str) -> None:
    """Write a small project to start from into the folder NAME; overwrites nothing.

    \b
    Examples:
      flowctl init hello && cd hello && flowctl run workflow.yaml
    """
    from headrace.flowctl._project import write_project

    for path in write_project(Path(name)):
        click.echo(str(path))
    note(f"next: cd {name} && flowctl run workflow.yaml")
