"""Brings a developer's database to the branch that is checked out: back what the folder lacks, then up."""

from __future__ import annotations

from agent_storage.migrations.results import RunResult
from agent_storage.migrations.run.migrations import Migrations


def to_take_back(migrator: Migrations) -> list[str]:
    """The applied migrations that the folder does not have, the last applied first."""
    with migrator.session() as session:
        timeline = migrator.timeline(session)
    known = {file.id for file in timeline.files} | {part for file in timeline.files for part in file.replaces}
    gone = [id_ for id_ in timeline.applied if id_ not in known]
    return gone[::-1]


def sync(migrator: Migrations) -> RunResult:
    """Roll back, from the database's own copies, what the folder does not have; then apply what is pending."""
    back = migrator.take_back(to_take_back(migrator))
    again = migrator.up(allow_out_of_order=True)
    return RunResult([*back.done, *again.done], again.pending)
