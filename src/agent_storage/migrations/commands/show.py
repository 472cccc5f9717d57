"""`show`: the SQL and the state of one migration."""

from __future__ import annotations

from dataclasses import dataclass

from agent_storage.migrations.files.file import find_id
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.run.migrations import Migrations


@dataclass(frozen=True, slots=True)
class ShownMigration:
    """The SQL and the state of a migration. `source` is the origin of the text."""

    id: str
    state: str
    source: str
    checksum: str
    transactional: bool
    statements: int
    up_sql: str
    down_sql: str | None


def show(migrator: Migrations, name: str) -> ShownMigration:
    """Return the migration that `name` identifies: its file, or the copy in the database if there is no file."""
    with migrator.session() as session:
        tracking = TrackingTables(session.connection)
        timeline = migrator.timeline(session, tracking)
        known = [status.id for status in timeline.statuses(timeline.problems())]
        id_ = find_id(name, known)
        state = next(status.state for status in timeline.statuses([]) if status.id == id_)
        file = next((file for file in timeline.files if file.id == id_), None)
        kept = file or tracking.stored(id_)
    if kept is None:
        return ShownMigration(id_, state, "nowhere: stock yoyo applied it and kept no SQL", "", True, 0, "", None)
    source = "from its file" if file else "from the database's copy"
    down = kept.down.text if kept.down else None
    return ShownMigration(
        id_, state, source, kept.checksum, kept.transactional, len(kept.up.statements), kept.up.text, down
    )
