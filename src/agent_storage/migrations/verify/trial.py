"""Test rollbacks: up, down and up again in a shadow database, comparing the catalog at each step."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg

from agent_storage.catalog import Catalog, snapshot
from agent_storage.migrations.errors import StatementFailed
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.results import Event
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.replay import run
from agent_storage.migrations.verify.drift import differences
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow


@dataclass(frozen=True, slots=True)
class Trial:
    """The trial of one migration. `faults` is empty if it passed. `stuck`: later migrations could not be tried."""

    id: str
    name: str
    reversible: bool
    faults: list[str] = field(default_factory=list[str])
    stuck: bool = False


def up_down_up(migrator: Migrations, server: ShadowServer) -> list[Trial]:
    """Try every migration of the sources, in order.

    Raises `StatementFailed` if a migration cannot be applied. One that cannot be rolled back ends the trial.
    """
    tried: list[Trial] = []
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        before = snapshot(connection)
        for file in migrator.files():
            migrator.notify(Event("start", f"trying {file.name}", file.id))
            run(connection, file, "up")
            after = snapshot(connection)
            tried.append(_try_back(connection, file, before, after))
            if tried[-1].stuck:
                break
            before = snapshot(connection)
    return tried


def _try_back(connection: psycopg.Connection, file: MigrationFile, before: Catalog, after: Catalog) -> Trial:
    """Roll back a migration that was just applied, and apply it again."""
    if file.down is None:
        faults = [] if file.irreversible is not None else ["there is no rollback file"]
        return Trial(file.id, file.name, reversible=False, faults=faults)
    faults: list[str] = []
    try:
        run(connection, file, "down")
        faults += [f"after down: {line}" for line in differences(before, snapshot(connection))]
        run(connection, file, "up")
        faults += [f"after the second up: {line}" for line in differences(after, snapshot(connection))]
    except StatementFailed as error:
        return Trial(file.id, file.name, reversible=True, faults=[*faults, error.message], stuck=True)
    return Trial(file.id, file.name, reversible=True, faults=faults)
