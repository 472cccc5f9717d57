"""What the commands share: the storage they work on, and errors as one clear sentence with an exit code."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..sync import Storage

Db = Annotated[str | None, typer.Option("--db", metavar="URL", help="The database; default: as set, else embedded.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@contextmanager
def errors() -> Generator[None]:
    """Errors of the package become `error: …` on stderr and exit code 1; 2 for settings, 8 for an absent database."""
    from ..errors import InvalidSettings, StorageError, Unavailable

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
    from ..sync import Storage

    with errors(), Storage.open(db) as storage:
        yield storage


def to_json(value: Any) -> str:
    """A value as indented JSON; records, dates and decimals included."""
    import orjson
    from pydantic import BaseModel

    def default(item: object) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else str(item)

    return orjson.dumps(value, default=default, option=orjson.OPT_INDENT_2).decode()
