"""One migration with everything that is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from agent_storage.migrations.files.file import find_id
from agent_storage.migrations.history.tracking import Ledger
from agent_storage.migrations.run.migrations import Migrations


@dataclass(frozen=True, slots=True)
class Shown:
    """A migration's SQL and state; `source` says where the text comes from."""

    id: str
    state: str
    source: str
    checksum: str
    transactional: bool
    statements: int
    up_sql: str
    down_sql: str | None


def show(migrator: Migrations, name: str) -> Shown:
    """The migration that `name` means: the file, or the database's copy if there is no file."""
    with migrator.session() as session:
        ledger = Ledger(session.connection)
        timeline = migrator.timeline(session, ledger)
        known = [status.id for status in timeline.statuses(timeline.problems())]
        id_ = find_id(name, known)
        state = next(status.state for status in timeline.statuses([]) if status.id == id_)
        file = next((file for file in timeline.files if file.id == id_), None)
        kept = file or ledger.stored(id_)
    if kept is None:
        return Shown(id_, state, "nowhere: stock yoyo applied it and kept no SQL", "", True, 0, "", None)
    source = "from its file" if file else "from the database's copy"
    down = kept.down.text if kept.down else None
    return Shown(id_, state, source, kept.checksum, kept.transactional, len(kept.up.statements), kept.up.text, down)
