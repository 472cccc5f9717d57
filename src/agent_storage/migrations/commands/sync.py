"""`sync`: bring a development database to the checked-out branch."""

from __future__ import annotations

from agent_storage.migrations.results import RunResult
from agent_storage.migrations.run.migrations import Migrations


def not_in_folder(migrator: Migrations) -> list[str]:
    """Return the applied migrations that the folder does not contain, the last applied first."""
    with migrator.session() as session:
        timeline = migrator.timeline(session)
    known = {file.id for file in timeline.files} | {part for file in timeline.files for part in file.replaces}
    gone = [id_ for id_ in timeline.applied if id_ not in known]
    return gone[::-1]


def sync(migrator: Migrations) -> RunResult:
    """Roll back migrations that the folder does not contain, from the copies in the database, then apply the rest."""
    back = migrator.roll_back(not_in_folder(migrator))
    again = migrator.up(allow_out_of_order=True)
    return RunResult([*back.done, *again.done], again.pending)
