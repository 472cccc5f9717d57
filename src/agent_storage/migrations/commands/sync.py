"""`sync`: bring a development database to the checked-out branch."""

from __future__ import annotations

from agent_storage.migrations.files.file import MigrationKey
from agent_storage.migrations.results import RunResult
from agent_storage.migrations.run.migrations import Migrations


def not_in_folder(migrator: Migrations) -> list[MigrationKey]:
    """Return the applied migrations of the own source that its folder does not contain, the last applied first."""
    with migrator.session() as session:
        timeline = migrator.timelines(session).of_own
    known = {file.id for file in timeline.files} | {part for file in timeline.files for part in file.replaces}
    return [entry.key for id_, entry in timeline.applied.items() if id_ not in known][::-1]


def sync(migrator: Migrations, back: list[MigrationKey]) -> RunResult:
    """Roll back the migrations `back`, from the copies in the database, then apply the pending ones.

    `back` is what `not_in_folder` returned and the user has confirmed.
    """
    done = migrator.roll_back(back)
    again = migrator.up(allow_out_of_order=True)
    return RunResult([*done.done, *again.done], again.pending)
