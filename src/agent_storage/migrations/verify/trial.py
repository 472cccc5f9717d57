"""Proof that the way back works: up, down and up again in a shadow, the catalog compared at each step."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg

from agent_storage.catalog import Catalog, snapshot
from agent_storage.migrations.errors import StatementFailed
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.yoyo import in_order
from agent_storage.migrations.results import Event
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.run.replay import run
from agent_storage.migrations.verify.drift import differences
from agent_storage.migrations.verify.shadow import ShadowServer, open_shadow


@dataclass(frozen=True, slots=True)
class Tried:
    """One migration's trial; `faults` is empty if it went well. `stuck`: what comes after it could not be tried."""

    id: str
    reversible: bool
    faults: list[str] = field(default_factory=list[str])
    stuck: bool = False


def up_down_up(migrator: Migrations, server: ShadowServer) -> list[Tried]:
    """Try every migration of the folder, in order, as far as they get.

    A migration that cannot even be applied raises `StatementFailed`; one that does not come back ends the trial.
    """
    tried: list[Tried] = []
    with server.database() as conninfo, open_shadow(conninfo) as connection:
        before = snapshot(connection)
        for file in in_order(migrator.files()):
            migrator.notify(Event("start", f"trying {file.id}", file.id))
            run(connection, file, "up")
            after = snapshot(connection)
            tried.append(_try_back(connection, file, before, after))
            if tried[-1].stuck:
                break
            before = snapshot(connection)
    return tried


def _try_back(connection: psycopg.Connection, file: MigrationFile, before: Catalog, after: Catalog) -> Tried:
    """The way back and up again of a migration that has just been applied."""
    if file.down is None:
        faults = [] if file.irreversible is not None else ["there is no way back"]
        return Tried(file.id, reversible=False, faults=faults)
    faults: list[str] = []
    try:
        run(connection, file, "down")
        faults += [f"after down: {line}" for line in differences(before, snapshot(connection))]
        run(connection, file, "up")
        faults += [f"after the second up: {line}" for line in differences(after, snapshot(connection))]
    except StatementFailed as error:
        return Tried(file.id, reversible=True, faults=[*faults, error.message], stuck=True)
    return Tried(file.id, reversible=True, faults=faults)
