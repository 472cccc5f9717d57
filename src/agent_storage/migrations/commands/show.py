"""`show`: the SQL and the state of one migration."""

from __future__ import annotations

from dataclasses import dataclass

from agent_storage.migrations.files.file import MigrationKey, find_key
from agent_storage.migrations.run.migrations import Migrations


@dataclass(frozen=True, slots=True)
class ShownMigration:
    """The SQL and the state of a migration of a source. `origin` is that of the text."""

    id: str
    source: str
    name: str
    state: str
    origin: str
    checksum: str
    transactional: bool
    statements: int
    up_sql: str
    down_sql: str | None


def show(migrator: Migrations, name: str) -> ShownMigration:
    """Return the migration that `name` identifies: its file, or the copy in the database if there is no file."""
    with migrator.session() as session:
        tracking = migrator.tracking(session)
        timelines = migrator.timelines(session, tracking)
        states = {MigrationKey(status.source, status.id): status.state for status in timelines.statuses([])}
        key = find_key(name, states, timelines.own)
        file = next((file for file in timelines.files if file.key == key), None)
        kept = file or tracking.stored(key)
    shown = key.id, key.source, key.name(timelines.own), states[key]
    if kept is None:
        return ShownMigration(*shown, "nowhere: stock yoyo applied it and kept no SQL", "", True, 0, "", None)
    origin = "from its file" if file else "from the database's copy"
    down = kept.down.text if kept.down else None
    return ShownMigration(
        *shown, origin, kept.checksum, kept.transactional, len(kept.up.statements), kept.up.text, down
    )
