"""Refuse a pending migration that adds a table or a column which a migration of another source has added already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.changes import Change, changes
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.files.report import shown
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackingTables

#: Schema, table, and column or None.
_Place = tuple[str, str, str | None]


def refuse_clashes(chosen: Sequence[MigrationFile], timelines: Timelines, tracking: TrackingTables) -> None:
    """Raise `InvalidRequest` with both files. Nothing has run then.

    The migrations are read, not run. A name that one of them drops or renames before is free again.
    """
    if not chosen or len({entry.source for entry in timelines.recorded} | {file.source for file in chosen}) < 2:
        return
    made: dict[_Place, MigrationFile] = {}
    for file in _applied(timelines, tracking):
        for change in changes(file.up):
            _follow(made, change, tracking.schema, file)
    for file in chosen:
        for change in changes(file.up):
            place = _place(change, tracking.schema)
            other = made.get(place)
            if change.verb == "add" and other is not None and other.source != file.source:
                raise _clash(file, change, other)
            _follow(made, change, tracking.schema, file)


def _applied(timelines: Timelines, tracking: TrackingTables) -> Iterator[MigrationFile]:
    """Yield the applied migrations of all sources, in the order in which they were applied."""
    files = {file.key: file for file in timelines.files}
    for entry in timelines.recorded:
        if entry.applied:
            file = files.get(entry.key)
            same = file is not None and entry.checksum in {None, file.checksum}
            found = file if same else tracking.stored(entry.key) or file
            if found is not None:
                yield found


def _follow(made: dict[_Place, MigrationFile], change: Change, schema: str, file: MigrationFile) -> None:
    place = _place(change, schema)
    if change.verb == "add":
        made[place] = file
    elif change.verb == "drop":
        for known in [known for known in made if known[:2] == place[:2] and change.column in {None, known[2]}]:
            del made[known]


def _place(change: Change, schema: str) -> _Place:
    return change.schema or schema, change.table, change.column


def _clash(file: MigrationFile, change: Change, other: MigrationFile) -> InvalidRequest:
    line = file.up.place(change.statement.offset)[0]
    what = f"column {change.table}.{change.column}" if change.column else f"table {change.table}"
    return InvalidRequest(
        f"{file.name} adds the {what}, which {other.name} of {other.source} has added",
        lines=[f"{shown(file.path)}:{line} adds it", f"{shown(other.path)} has added it"],
        hint=f"rename the {what} in a migration of one of the two sources first; nothing was applied",
    )
