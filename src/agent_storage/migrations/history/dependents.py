"""Refuse to roll back a migration on which an applied migration of another source depends."""

from __future__ import annotations

from collections.abc import Sequence

from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.file import MigrationFile, MigrationKey
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackingTables


def refuse_needed(files: Sequence[MigrationFile], timelines: Timelines, tracking: TrackingTables) -> None:
    """Raise `InvalidRequest` with both names if an applied migration that remains depends on one of these files."""
    leaving = {file.key: file for file in files}
    leaving |= {MigrationKey(file.source, old): file for file in files for old in file.replaces}
    known = {file.key: file for file in timelines.files}
    for entry in timelines.recorded:
        if entry.key in leaving or not entry.applied or all(key.source == entry.source for key in leaving):
            continue
        dependent = known.get(entry.key) or tracking.stored(entry.key)
        needed = next((key for key in dependent.depends if key in leaving), None) if dependent else None
        if needed is not None:
            other = entry.key.name(timelines.own)
            raise InvalidRequest(
                f"{leaving[needed].name} cannot be rolled back: {other} depends on it",
                hint=f"{other} is applied; keep both",
            )
