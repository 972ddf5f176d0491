"""The program: finds commands when they are needed, and turns errors into words and exit codes.

Nothing that a command needs is imported before it is known that this command runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from headrace.errors import HeadraceError, InvalidRequest
from headrace.flowctl._shared import refuse_others, settings_of, shared_options

EXIT_USAGE = 3
EXIT_UNAVAILABLE = 5
EXIT_BUG = 70
"""`EX_SOFTWARE` of sysexits.h."""
EXIT_INTERRUPTED = 130
GROUP = "headrace.commands"

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Run workflows": {
        "submit": ("_cmd_submit:submit", "Start a run of a workflow."),
        "list": ("_cmd_runs:list_runs", "List runs, newest first."),
        "get": ("_cmd_runs:get", "Show a run and its steps."),
        "history": ("_cmd_runs:history", "Show every event of a run."),
        "diff": ("_cmd_diff:diff", "Show what differs between two runs."),
        "evidence": ("_cmd_evidence:evidence", "Export and check what a run did."),
        "explain": ("_cmd_runs:explain", "Say why a run is where it is."),
        "logs": ("_cmd_runs:logs", "Print what the steps of a run wrote."),
        "artifacts": ("_cmd_artifacts:artifacts", "List or fetch files that a run keeps."),
        "cancel": ("_cmd_control:cancel", "Stop a run."),
        "pause": ("_cmd_control:pause", "Start no more steps of a run."),
        "resume": ("_cmd_control:resume", "Go on with a paused run."),
        "signal": ("_cmd_control:signal", "Send a signal to a run."),
        "resolve": ("_cmd_control:resolve", "Say what became of a step that is UNKNOWN."),
        "update": ("_cmd_function:update", "Have a workflow function change something."),
        "query": ("_cmd_function:query", "Ask a workflow function something."),
        "unblock": ("_cmd_function:unblock", "Say how a run goes on that its code blocks."),
        "event": ("_cmd_event:event", "Publish events, which start runs too."),
        "patch": ("_cmd_patch:patch", "Let a live run go on with another definition."),
        "schedule": ("_cmd_schedule:schedule", "Start runs at their times."),
        "cache": ("_cmd_cache:cache", "List and forget results that steps share."),
        "lock": ("_cmd_lock:lock", "Let one at a time do something."),
        "rerun": ("_cmd_submit:rerun", "Start a run again."),
        "reset": ("_cmd_submit:reset", "Start a run again from an event of it."),
    },
    "Write workflows": {
        "init": ("_cmd_files:init", "Write a small project to start from."),
        "schema": ("_cmd_files:schema", "Print the JSON Schema of workflow files."),
        "validate": ("_cmd_files:validate", "Check workflow files."),
        "plan": ("_cmd_plan:plan", "Print what a run of a file would do, and why."),
        "lint": ("_cmd_code:lint", "Check workflow functions in Python."),
        "replay": ("_cmd_code:replay", "Replay a history with the code of today."),
        "graph": ("_cmd_files:graph", "Draw a workflow file or a run."),
        "register": ("_cmd_definitions:register", "Keep a workflow under a name and a version."),
        "definitions": ("_cmd_definitions:definitions", "List, show and delete what is kept."),
        "handlers": ("_cmd_handlers:handlers", "List what steps can use."),
    },
    "Look after the cluster": {
        "workers": ("_cmd_cluster:workers", "List the workers."),
        "variable": ("_cmd_variable:variable", "Keep variables of a namespace (also: var)."),
        "namespace": ("_cmd_namespace:namespace", "Show and change settings of a namespace."),
        "doctor": ("_cmd_doctor:doctor", "Check a cluster, and say what to do."),
        "drain": ("_cmd_cluster:drain", "Let a worker finish and stop."),
        "cluster": ("_cmd_cluster:cluster", "Status, check, logins, backup and restore."),
    },
    "This program": {
        "context": ("_cmd_setup:context", "Name the clusters that you work with."),
        "version": ("_cmd_setup:version", "Print the version."),
        "completion": ("_cmd_setup:completion", "Print a shell's completion script."),
    },
}

ALIASES = {"var": "variable"}

ROLES: dict[str, tuple[str, str]] = {
    "dev": ("dev", "A whole server on this machine, for development."),
    "run": ("dev", "Run a workflow file in this process, without a server."),
    "coordinator": ("coordinator", "A coordinator of a cluster."),
    "worker": ("worker", "A worker."),
}
"""Commands of other packages: the extra that they need, and what they are."""


class Commands(click.Group):
    """The root group; its commands are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, those of other packages too."""
        own = [name for section in COMMANDS.values() for name in section]
        return own + sorted(set(ROLES) | {entry.name for entry in _entry_points()} - set(own))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None. Raises `InvalidRequest` if an extra is missing."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        for section in COMMANDS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name][0].partition(":")
                found = getattr(import_module(f"headrace.flowctl.{module}"), attribute)
                assert isinstance(found, click.Command), cmd_name
                return found
        return _role_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; refuse options before it that mean nothing to it."""
        if args and not args[0].startswith("-") and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            if args[0] not in known and args[0] not in ALIASES:
                from difflib import get_close_matches

                close = get_close_matches(args[0], known, 1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                ctx.fail(f"no command {args[0]!r}{hint}")
        name, command, rest = super().resolve_command(ctx, args)
        if name and command is not None and not ctx.resilient_parsing:
            refuse_others(ctx, name, command)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections of the help, without importing a single command."""
        sections = {title: list(section.items()) for title, section in COMMANDS.items()}
        rows = {title: [(name, text) for name, (_, text) in s] for title, s in sections.items()}
        roles = {name: text for name, (_, text) in ROLES.items()}
        others = {entry.name: f"From {entry.value}." for entry in _entry_points()}
        rows["Run servers"] = list(
            (roles | {k: v for k, v in others.items() if k not in roles}).items()
        )
        for title, lines in rows.items():
            with formatter.section(title):
                formatter.write_dl(lines)


def _entry_points() -> Sequence[Any]:
    from importlib.metadata import entry_points

    return list(entry_points(group=GROUP))


def _role_command(name: str) -> click.Command | None:
    matching = [entry for entry in _entry_points() if entry.name == name]
    extra = ROLES.get(name, (name, ""))[0]
    needed = f"`flowctl {name}` needs more packages: pip install 'headrace[{extra}]'"
    if not matching:
        if name in ROLES:
            raise InvalidRequest(f"{needed} (no entry point was found)")
        return None
    try:
        found = matching[0].load()
    except ImportError as error:
        raise InvalidRequest(f"{needed} ({error})") from error
    if not isinstance(found, click.Command):
        raise InvalidRequest(f"{matching[0].value} is not a click command")
    return found


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@shared_options
@click.option("--version", is_flag=True, help="Print the version.")
@click.pass_context
def cli(context: click.Context, version: bool) -> None:
    """Durable workflows: submit them, watch them, find out why they wait.

    Without --server the current context is used, else the last `flowctl dev` of this machine.
    It must answer within FLOWCTL_TIMEOUT (4s).

    \b
    Examples:
      flowctl dev                                  a server, in one terminal
      flowctl submit workflow.yaml --watch         a run, in another
      flowctl list --state failed --since 1d -o json

    Exit codes: 0 ok, 1 the run failed, 2 cancelled, 3 usage or invalid definition, 4 not found,
    5 the cluster cannot be reached.
    """
    settings_of(context)
    if context.invoked_subcommand is not None:
        return
    if version:
        command = context.command
        assert isinstance(command, Commands)
        found = command.get_command(context, "version")
        assert found is not None
        context.invoke(found)
    else:
        click.echo(context.get_help())


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the program; never returns and never shows a traceback unless `FLOWCTL_DEBUG` is set."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    code = _run(args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    return code


def _run(args: Sequence[str] | None) -> int:
    stdout, stderr = sys.stdout, sys.stderr
    try:
        code = cli.main(
            None if args is None else list(args), prog_name="flowctl", standalone_mode=False
        )
    except SystemExit as error:
        if sys.stdout is not stdout:
            # click has put its own in place and wants to exit with 1, since the reader has gone
            # (`| head`); but 1 would be a failed run.
            sys.stdout, sys.stderr = stdout, stderr
            return 0
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except (KeyboardInterrupt, click.exceptions.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0
    except BaseException as error:
        return _report(error)
    return code if isinstance(code, int) else 0


def _report(error: BaseException) -> int:
    """Tell the user what went wrong, on stderr; return the exit code."""
    if os.environ.get("FLOWCTL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return EXIT_USAGE
    if isinstance(error, HeadraceError):
        click.echo(f"error: {error}", err=True)
        # 1 says that a run failed; a refusal that this program does not know is the cluster's.
        return EXIT_UNAVAILABLE if error.exit_code == 1 else error.exit_code
    if isinstance(error, RecursionError | MemoryError):
        click.echo(f"error: the input is too large or too deep ({type(error).__name__})", err=True)
        return EXIT_USAGE
    if isinstance(error, OverflowError | UnicodeEncodeError):
        # What was typed goes into messages as it is: 64 bits for a number, UTF-8 for a text.
        what = "number is too large" if isinstance(error, OverflowError) else "text is not UTF-8"
        click.echo(f"error: a {what} ({error})", err=True)
        return EXIT_USAGE
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("headrace"):
        # An option asks for more than is installed: `run --persistence journal`, for one.
        click.echo(
            f"error: this needs more packages: pip install 'headrace[dev]' ({error})", err=True
        )
        return EXIT_USAGE
    if isinstance(error, OSError) and error.filename is not None:
        click.echo(f"error: {error.filename}: {error.strerror}", err=True)
        return EXIT_USAGE
    click.echo(
        f"internal error: {type(error).__name__}: {error}\n"
        "this is a bug in flowctl; FLOWCTL_DEBUG=1 shows where it happened",
        err=True,
    )
    return EXIT_BUG


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere: the reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
