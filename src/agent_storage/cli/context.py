"""Shared by the commands: their storage, and errors as one sentence with an exit code."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from agent_storage.sync import Storage

Db = Annotated[str | None, typer.Option("--db", metavar="URL", help="The database; default: as set, else embedded.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, metavar="N", help="At most so many.")]


class Group(TyperGroup):
    """A group of commands that meets a typo with the nearest command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.suggest_commands = False  # newer releases of Typer would add another suggestion

    # Typer's newer releases bring their own click, and have no public name for its context.
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command. Fails with a suggestion when there is none of that name."""
        command = super().get_command(ctx, cmd_name)
        return command or no_such_command(ctx, cmd_name, self.commands)


def no_such_command(ctx: Any, name: str, known: Iterable[str]) -> None:
    """Fail as for a wrong command line, with the nearest of the known names."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    ctx.fail(f"No such command {name!r}.{hint}")


@contextmanager
def errors() -> Generator[None]:
    """Errors of the package become `error: …` on stderr and exit code 1; 2 for settings, 8 for an absent database."""
    from agent_storage.errors import InvalidSettings, StorageError, Unavailable

    try:
        yield
    except StorageError as error:
        typer.echo(f"error: {error}", err=True)
        if hint := getattr(error, "hint", None):
            typer.echo(f"hint: {hint}", err=True)
        code = 2 if isinstance(error, InvalidSettings) else 8 if isinstance(error, Unavailable) else 1
        raise typer.Exit(getattr(error, "exit_code", code)) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


@contextmanager
def opened(db: str | None) -> Generator[Storage]:
    """The storage a command works on."""
    from agent_storage.sync import Storage

    with errors(), Storage.open(db) as storage:
        yield storage


def to_json(value: Any) -> str:
    """A value as indented JSON; records, dates and decimals included."""
    import orjson
    from pydantic import BaseModel

    def default(item: object) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else str(item)

    return orjson.dumps(value, default=default, option=orjson.OPT_INDENT_2).decode()


def require_schema(storage: Storage) -> None:
    """Raise, with what to do, when a migration is pending."""
    from agent_storage.migrations.migrator import Migrator

    Migrator(storage.database.conninfo).require_current()


def plain(text: str) -> str:
    """Return the text with control characters and lone surrogates as escapes."""
    return "".join(
        character
        if character in "\n\t" or (character.isprintable() and not "\ud800" <= character <= "\udfff")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )
