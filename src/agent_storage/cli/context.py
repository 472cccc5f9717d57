"""Shared by the commands: groups, common options, the storage they work on, and errors as exit codes."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from agent_storage.database.settings import Settings
    from agent_storage.sources import Configuration, Source
    from agent_storage.sync import Storage

EXIT_CODES = {
    0: "done, or nothing to do",
    1: "refused, or SQL failed",
    2: "wrong usage or settings",
    3: "migrations are pending",
    4: "drift",
    5: "history problem",
    6: "lock not obtained",
    7: "findings",
    8: "database not reachable, or no privilege",
    130: "interrupted",
}


def inherited(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Return the option's value, or the one given to the group: `storage --db URL tables`."""
    if value not in (None, False) or context.parent is None:
        return value
    return context.parent.params.get(str(parameter.name), value)


def common(*names: str, **settings: Any) -> Any:
    """Return an option that a group takes for all of its commands."""
    return typer.Option(*names, callback=inherited, rich_help_panel="Common options", **settings)


Db = Annotated[
    str | None, common("--db", metavar="URL", help="The database. Default: the settings, else the embedded server.")
]
AsJson = Annotated[bool, common("--json", help="Print one JSON object on stdout.")]
Owner = Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this owner.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="The largest number of rows.")]


class Group(TyperGroup):
    """A group of commands that answers a typo with the nearest command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.suggest_commands = False  # Typer's own suggestion knows neither lazy nor nested commands

    # Typer's newer releases bring their own click, and have no public name for its context.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name. Fails with a suggestion when there is none."""
        known = self.list_commands(ctx)
        if args[0] not in known and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], known, n=1) or self.elsewhere(args[0])
            ctx.fail(f"No such command {args[0]!r}.{f' Did you mean {near[0]}?' if near else ''}")
        return super().resolve_command(ctx, args)

    def elsewhere(self, name: str) -> list[str]:
        """Return the commands of other groups that have this name."""
        return []


def group(name: str, summary: str) -> typer.Typer:
    """Return a group of commands that takes the common options before the command, too."""
    app = typer.Typer(name=name, cls=Group, no_args_is_help=True, add_completion=False, help=summary)

    def options(as_json: AsJson = False, db: Db = None) -> None:
        """The options themselves; the commands read them from the context."""

    app.callback()(options)
    return app


def taught(*examples: str, codes: Iterable[int] = (0, 1, 2, 3, 8, 130)) -> str:
    """Return the end of a command's help: command lines that work, and its exit codes."""
    lines = ["Examples:" if len(examples) > 1 else "Example:", *(f"$ {example}" for example in examples)]
    lines.append(f"Exit codes: {'; '.join(f'{code} {EXIT_CODES[code]}' for code in codes)}.")
    return "\n\n".join(lines)


@contextmanager
def errors() -> Generator[None]:
    """Print errors of the package as `error: …` on stderr and exit with 1; 2 for settings, 8 for an absent database."""
    from agent_storage.errors import InvalidSettings, StorageError, Unavailable

    try:
        yield
    except StorageError as error:
        typer.echo(f"error: {error}".replace("the argument url", "--db"), err=True)
        if hint := getattr(error, "hint", None):
            typer.echo(f"hint: {hint}", err=True)
        code = 2 if isinstance(error, InvalidSettings) else 8 if isinstance(error, Unavailable) else 1
        raise typer.Exit(getattr(error, "exit_code", code)) from None


def own_source() -> tuple[Configuration, Source]:
    """Return the configuration and the product's source. Raises `InvalidSettings` if there is only the shipped one."""
    from agent_storage.errors import InvalidSettings
    from agent_storage.sources import configured

    found = configured()
    if found.own.shipped:
        raise InvalidSettings(
            'no source of yours is configured: add [tool.agent-storage] with sources = ["src/YOUR_PACKAGE/storage"] '
            "to pyproject.toml, and make that package"
        )
    return found, found.own


def shown_path(path: Path) -> str:
    """Return a path below the current folder without it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def end_quietly() -> NoReturn:
    """End the process when the reader of stdout is gone, as in `storage sql | head`."""
    # Python flushes its buffer at exit; it needs a place to go.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def settings_for(db: str | None) -> Settings:
    """Return the settings of a command: those of the environment, and the schema of pyproject.toml too."""
    from agent_storage.database.settings import Settings
    from agent_storage.sources import configured

    return Settings.load(db, schema=configured().schema)


@contextmanager
def opened(db: str | None) -> Generator[Storage]:
    """Yield the storage that a command uses."""
    from agent_storage.sources import configured
    from agent_storage.sync import Storage

    with errors(), Storage(db, schema=configured().schema) as storage:
        yield storage


def to_json(value: Any) -> str:
    """Return a value as indented JSON; records, dataclasses, dates and decimals included."""
    import orjson
    from pydantic import BaseModel

    def default(item: object) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else str(item)

    return orjson.dumps(value, default=default, option=orjson.OPT_INDENT_2).decode()


def require_schema(storage: Storage) -> None:
    """Raise MigrationError, with a hint, when a migration is pending."""
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.sources import configured

    Migrator(storage.database.conninfo, sources=configured().sources).require_current()


def plain(text: str) -> str:
    """Return text as a terminal can show it: control characters and lone surrogates as escapes."""
    return "".join(
        character
        if character in "\n\t" or (character.isprintable() and not "\ud800" <= character <= "\udfff")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )
