"""Select the migrations of a command: the next, the last, or up to an id."""

from __future__ import annotations

from collections.abc import Sequence

from agent_storage.migrations.errors import HistoryProblem, InvalidRequest, NotReversible
from agent_storage.migrations.files.file import MigrationFile, find_id
from agent_storage.migrations.history.timeline import Timeline
from agent_storage.migrations.history.tracking import TrackingTables


def to_apply(timeline: Timeline, count: int | None, to: str | None) -> list[MigrationFile]:
    """Return the pending migrations that `up` applies, in order."""
    files = timeline.pending
    if to is not None:
        last = find_id(to, [file.id for file in timeline.files])
        ids = [file.id for file in files]
        return files[: ids.index(last) + 1] if last in ids else []
    if count is not None and count < 1:
        raise InvalidRequest(f"{count} migrations cannot be applied", hint="give a number from 1")
    return files[:count]


def last_applied(timeline: Timeline, count: int, to: str | None, *, everything: bool) -> list[str]:
    """Return the ids of the migrations that `down` rolls back, the last applied first."""
    applied = list(timeline.applied)[::-1]
    if everything:
        return applied
    if to is not None:
        return applied[: applied.index(find_id(to, applied))]
    if count < 1:
        raise InvalidRequest(f"{count} migrations cannot be rolled back", hint="give a number from 1")
    return applied[:count]


def to_roll_back(tracking: TrackingTables, timeline: Timeline, ids: Sequence[str]) -> list[MigrationFile]:
    """Return the migrations to roll back: the file, or the copy in the database if the file is missing or edited."""
    files = {file.id: file for file in timeline.files}
    chosen: list[MigrationFile] = []
    for id_ in ids:
        file = files.get(id_)
        if file is None or file.down is None or timeline.applied[id_].checksum not in {None, file.checksum}:
            file = tracking.stored(id_) or file
        chosen.append(_reversible(id_, file))
    return chosen


def _reversible(id_: str, file: MigrationFile | None) -> MigrationFile:
    if file is None:
        hint = "stock yoyo applied it and stores no SQL; restore its files in the folder"
        raise HistoryProblem(f"{id_} cannot be rolled back: its file is missing", hint=hint)
    if file.irreversible is not None:
        hint = "write a new migration instead"
        raise NotReversible(f"{id_} is irreversible: {file.irreversible}", hint=hint)
    if file.down is None or not file.down.statements:
        hint = f"write {file.rollback_path.name}"
        raise HistoryProblem(f"{id_} cannot be rolled back: it has no rollback file", hint=hint)
    return file
