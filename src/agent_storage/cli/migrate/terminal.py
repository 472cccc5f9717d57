"""Shared by the commands under migrate: options, the database, progress, results, errors and exit codes."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_storage.cli.context import common, settings_for, to_json

if TYPE_CHECKING:
    from agent_storage.errors import StorageError
    from agent_storage.migrations.errors import MigrationFailure
    from agent_storage.migrations.migrator import Migrator
    from agent_storage.migrations.results import Event
    from agent_storage.migrations.verify.shadow import ShadowServer

Folder = Annotated[
    Path | None, common("--folder", metavar="DIR", help="The migrations. Default: those of the configured sources.")
]
FromSource = Annotated[
    str | None,
    typer.Option("--source", metavar="NAME", help="The source to work in. Default: the last configured one."),
]
Quiet = Annotated[bool, common("--quiet", "-q", help="Show no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show every statement, and the server's notices.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Wait = Annotated[str, typer.Option(metavar="TIME", help="How long to wait for another migrator.")]
LockTimeout = Annotated[str, typer.Option(metavar="TIME", help="How long a statement may wait for a lock.")]
Retries = Annotated[int, typer.Option(metavar="N", min=0, help="The number of further tries after a lock time-out.")]
ShadowUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The server for shadow databases. Default: the database's.")
]
Tables = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The folders of the tables. Default: those of the sources.")
]

_EVERY = 2.0


def migration_conninfo(db: str | None) -> str:
    """Return the connection string for migrations.

    It is `--db`, else the settings' migrate_url or url, else that of the embedded server.
    """
    from agent_storage.database.connections import locate

    settings = settings_for(db)
    if settings.migrate_url and not db:
        settings = settings.model_copy(update={"url": settings.migrate_url})
    return locate(settings, progress=lambda line: typer.echo(line, err=True))


@dataclass
class Terminal:
    """The output of a command: progress and errors on stderr, the result on stdout."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    _last_progress: float = field(default=0.0, init=False)

    def migrator(
        self,
        db: str | None,
        folder: Path | None,
        *,
        source: str | None = None,
        wait: str = "60s",
        lock_timeout: str = "5s",
        retries: int = 10,
        connects: bool = True,
    ) -> Migrator:
        """Return a `Migrator` of the configured sources, or of `folder` alone, that reports its progress here.

        Without `connects` it reads the folders alone.
        """
        from agent_storage.migrations.files.file import duration_ms
        from agent_storage.migrations.migrator import Migrator
        from agent_storage.sources import configured

        settings = None if folder else configured()
        return Migrator(
            migration_conninfo(db) if connects else "",
            folder,
            sources=None if settings is None else settings.sources,
            own=source,
            ignore=() if settings is None else settings.ignore,
            on_event=self.progress,
            wait=duration_ms(wait) / 1000,
            retries=retries,
            lock_timeout=duration_ms(lock_timeout) / 1000,
        )

    def progress(self, event: Event) -> None:
        """Show an event as a line; of many statements only one in two seconds."""
        if self.quiet:
            return
        now = time.monotonic()
        minor = event.kind in {"statement", "notice"} and not self.verbose
        if minor and (event.kind == "notice" or now - self._last_progress < _EVERY):
            return
        if event.kind in {"start", "statement"}:
            self._last_progress = now
        self.note(event.message)

    def note(self, line: str) -> None:
        """Print a line on stderr."""
        typer.echo(line, err=True)

    def result(self, value: Any, lines: Iterable[str]) -> None:
        """Print the command's answer: the value as JSON, or the lines."""
        if self.as_json:
            typer.echo(to_json(value))
            return
        for line in lines:
            typer.echo(line)

    def fail(self, error: MigrationFailure) -> None:
        """Print a line `error: …`, its details and a hint. With --json, print the error as JSON on stdout, too."""
        if self.as_json:
            typer.echo(to_json({"error": error.as_json()}))
        label = "error:" if os.environ.get("NO_COLOR") else typer.style("error:", fg=typer.colors.RED)
        self.note(f"{label} {error.message}")
        for line in error.lines:
            self.note(line if line.startswith(" ") else f"  {line}")
        if error.hint:
            self.note(f"hint: {error.hint}")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask, unless `yes`. Raises InvalidRequest when there is no terminal to ask on."""
        from agent_storage.migrations.errors import InvalidRequest

        if yes:
            return
        if not sys.stdin.isatty():
            raise InvalidRequest(f"{question}: this needs a yes", hint="add --yes")
        if not typer.confirm(question, err=True):
            self.note("nothing was changed")
            raise typer.Exit(1)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@contextmanager
def terminal(*, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> Generator[Terminal]:
    """Run a command: errors become one line and an exit code, SIGINT and SIGTERM cancel, roll back and exit 130."""
    from agent_storage.errors import StorageError
    from agent_storage.migrations.errors import Interrupted, MigrationFailure

    shown = Terminal(as_json, quiet, verbose)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield shown
    except KeyboardInterrupt as signalled:
        notes: list[str] = getattr(signalled, "__notes__", [])
        hint = "`storage migrate status` shows the state of the database" if notes else None
        failure: MigrationFailure = Interrupted("interrupted", lines=notes, hint=hint)
        shown.fail(failure)
        raise typer.Exit(failure.exit_code) from None
    except MigrationFailure as error:
        shown.fail(error)
        raise typer.Exit(error.exit_code) from None
    except StorageError as error:
        failure = _failure(error)
        shown.fail(failure)
        raise typer.Exit(failure.exit_code) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _failure(error: StorageError) -> MigrationFailure:
    """An error of the settings or the embedded server, with the exit code that it has here."""
    from agent_storage.errors import InvalidSettings, Unavailable
    from agent_storage.migrations.errors import CannotConnect, InvalidRequest, MigrationFailure

    kinds = {InvalidSettings: InvalidRequest, Unavailable: CannotConnect}
    kind = next((ours for theirs, ours in kinds.items() if isinstance(error, theirs)), MigrationFailure)
    return kind(str(error).replace("the argument url", "--db"))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM as SIGINT. psycopg cancels the running statement, the transaction's block rolls back."""
    # A second one must not cut the rolling back short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def end(code: int) -> None:
    """End the command with an exit code without an error message."""
    if code:
        raise typer.Exit(code)


@contextmanager
def shadowing(migrator: Migrator, url: str | None) -> Generator[ShadowServer]:
    """Yield the server on which the command may make shadow databases."""
    from agent_storage.migrations.verify.shadow import shadow_server

    with shadow_server(migrator.conninfo, shadow_url=url, notify=migrator.notify) as server:
        yield server
