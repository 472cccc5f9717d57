"""The `storage` command. Each group of commands is a separate module, imported when it is called."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperCommand

from agent_storage.cli.context import Group, no_such_command

#: The commands in the order in which --help lists them: name, module, what it is for.
_COMMANDS = {
    "demo": ("demo", "Store a real conversation, read it back and show it."),
    "status": ("status", "Where the database is, and whether its schema is current."),
    "tables": ("tables", "Every table: how many rows, how large, and what it is for."),
    "seed": ("seed", "Fill every table with believable demo data of any size."),
    "conversation": ("conversation", "Conversations: list them, read one."),
    "session": ("session", "Coding agents' sessions: list them, show one, and who spawned or forked whom."),
    "workflow": ("workflow", "Workflows and their runs: list them, show the state of one."),
    "approval": ("approval", "Approval requests of runs: list the open ones, approve or reject one."),
    "budget": ("budget", "Budgets: what is spent and what is left, as a tree."),
    "migrate": ("migrate", "Change the schema: up, down, status, plan, check, drift and more."),
    "check": ("check", "Prepare every declared statement and compare it with its signature."),
    "sql": ("statements", "List the declared statements, show one, or explain its plan."),
    "secrets": ("secrets", "Make a key; rotate the keys of encrypted columns."),
}


class _Lazy(Group):
    """A group that knows its commands by name and imports one only to run it, so that `--help` is quick."""

    # Typer's newer releases bring their own click, and have no public name for its context.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            no_such_command(ctx, cmd_name, _COMMANDS)
        module, summary = _COMMANDS[cmd_name]
        # A command that is only listed needs its summary alone.
        if ctx.resilient_parsing or cmd_name not in sys.argv:
            return TyperCommand(cmd_name, help=summary, short_help=summary)
        import importlib

        app: typer.Typer = importlib.import_module(f"{__name__}.{module}").app
        command = typer.main.get_command(app)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="storage",
    cls=_Lazy,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Everything an AI-agent platform has to remember, in PostgreSQL.\n\n"
    "Start with `storage migrate up`, then `storage demo`. The database is STORAGE_DATABASE_URL, DATABASE_URL, or the "
    "embedded PostgreSQL.",
)


def _version(value: bool) -> None:  # Typer's callbacks are called so
    if value:
        from agent_storage import __version__

        typer.echo(f"agent-storage {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", callback=_version, is_eager=True),
) -> None:
    """The options of `storage` itself."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. A reader that goes away (`storage sql | head`) is no error."""
    try:
        return app(arguments)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
