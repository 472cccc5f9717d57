"""The `storage` command. Each command is a module, imported when it is called."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from agent_storage.cli.context import EXIT_CODES, AsJson, Db, Group, end_quietly

#: The commands in the order of --help: name, module, summary.
COMMANDS = {
    "demo": ("demo", "Store a conversation, read it back and show it."),
    "status": ("status", "Show where the database is, and whether its schema is current."),
    "tables": ("tables", "List the tables: rows, size, purpose."),
    "seed": ("seed", "Fill every table with realistic demo data of any size."),
    "conversation": ("conversation", "List conversations, read one."),
    "checkpoint": ("checkpoint", "List the checkpoints of agents, show one, copy them to another database."),
    "session": ("session", "List the sessions of coding agents, show one, draw the tree of spawns and forks."),
    "workflow": ("workflow", "List workflows and their runs, show one; pause, resume, retry."),
    "approval": ("approval", "List approval requests, approve or reject one."),
    "budget": ("budget", "Show budgets as a tree: used, total, left."),
    "new": ("new", "Write the files of a new table in your source."),
    "generate": ("generate", "Write the sync face of your repositories."),
    "reset": ("reset", "Delete everything in the embedded PostgreSQL."),
    "migrate": ("migrate", "Change the schema: up, down, status, check, diff and more."),
    "check": ("check", "Compare every declared statement with a migrated database."),
    "sql": ("statements", "List the declared statements, show one, or explain its plan."),
    "secrets": ("secrets", "Make a key; rotate the keys of encrypted columns."),
}


def load(name: str) -> Any:
    """Import the command and return it."""
    module, _ = COMMANDS[name]
    app: typer.Typer = importlib.import_module(f"{__name__}.{module}").app
    command = typer.main.get_command(app)
    command.name = name
    _unwrap(command)
    return command


def _unwrap(command: Any) -> None:
    """Join the lines of each paragraph of a docstring: the terminal has its own width."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in getattr(command, "commands", {}).values():
        _unwrap(inner)


class _Root(Group):
    """The group of all commands. It imports the command that runs and no other, so that `--help` is quick."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command's name and summary, which is all that a list needs."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1], short_help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(name), rest

    def elsewhere(self, name: str) -> list[str]:
        groups = {known: getattr(load(known), "commands", {}) for known in COMMANDS}
        return [f"{known} {name}" for known, commands in groups.items() if name in commands]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):
            typer.echo("error: interrupted", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            end_quietly()


app = typer.Typer(
    name="storage",
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Everything an AI-agent platform has to remember, in PostgreSQL.\n\n"
    "The database is STORAGE_DATABASE_URL, DATABASE_URL, or the embedded PostgreSQL. --db and --json may be given "
    "before or after the command.",
    epilog="\n\n".join(
        [
            "Examples:",
            "$ storage migrate up",
            "$ storage demo",
            "$ storage seed demo",
            "$ storage --json session list --status running",
            "Exit codes:",
            *(f"{code:>3} {meaning}" for code, meaning in EXIT_CODES.items()),
        ]
    ),
)


def _version(value: bool) -> None:  # Typer's callbacks are called so
    if value:
        from agent_storage import __version__

        typer.echo(f"agent-storage {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """The options of `storage` itself. The commands read the common ones from the context."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of the process. Return its exit code."""
    # psycopg warns of what it could not close after a signal. The server rolls back when the connection is gone.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    try:
        typer.main.get_command(app).main(arguments, prog_name="storage")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
