"""`Health`: what a readiness probe wants to know of a database. `ensure_current`: the migrations that it may need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent_storage.database.connections import locate
from agent_storage.database.settings import Settings
from agent_storage.errors import READ_ONLY, Unavailable
from agent_storage.migrations.errors import CannotConnect, MigrationFailure
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.sources import Source, at, shipped

#: How a storage treats pending migrations when it is opened: apply them, leave them, wait for them, or fail.
Migrate = Literal[True, False, "wait", "fail"]


@dataclass(frozen=True)
class Health:
    """The health of a database: whether it can serve this code."""

    reachable: bool
    #: The server's version number, such as 180001.
    server_version: int | None = None
    #: How long taking a connection and one query took, in seconds.
    seconds: float | None = None
    #: Migrations that are not applied: the id of a shipped one, `SOURCE:ID` of another source of the storage.
    pending: tuple[str, ...] = ()
    #: Contradictions between the database's history and the migrations, a sentence each.
    problems: tuple[str, ...] = ()
    #: Why the database could not be reached or read.
    error: str | None = None

    @property
    def migrated(self) -> bool:
        """Return whether every migration of the storage's sources is applied."""
        return self.reachable and self.error is None and not self.pending

    def __bool__(self) -> bool:
        """Return whether the database answers and is migrated."""
        return self.migrated


def schema_health(
    conninfo: str, server_version: int, seconds: float, sources: Sequence[Source | str | Path] = ()
) -> Health:
    """Return the health of a database that answers; blocks while its migration history is read."""
    try:
        found = _with_shipped(sources)
        own = next(one.name for one in found if one.shipped)
        status = Migrations(conninfo, sources=found, own=own).status()
    except MigrationFailure as error:
        return Health(True, server_version, seconds, error=error.message)
    problems = tuple(problem.message for problem in status.problems)
    return Health(True, server_version, seconds, tuple(status.pending), problems)


def ensure_current(
    settings: Settings, migrate: Literal[True, "wait", "fail"], sources: Sequence[Source | str | Path]
) -> None:
    """Apply the pending migrations, wait for them, or raise `Pending`. Blocks.

    It connects to `migrate_url`, if that is set. The sources are the shipped one and `sources`. Raises `Unavailable`
    when the database cannot be reached.
    """
    if settings.migrate_url is not None:
        settings = settings.model_copy(update={"url": settings.migrate_url})
    try:
        Migrations(locate(settings), sources=_with_shipped(sources)).ensure_current(migrate)
    except CannotConnect as error:
        if error.sqlstate in {READ_ONLY, "42501"}:  # it can be reached
            raise
        raise Unavailable(error.message, sqlstate=error.sqlstate) from error


def _with_shipped(sources: Sequence[Source | str | Path]) -> list[Source]:
    found = [one if isinstance(one, Source) else at(Path(one)) for one in sources]
    return found if any(one.shipped for one in found) else [shipped(), *found]
