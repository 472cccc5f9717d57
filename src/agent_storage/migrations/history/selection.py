"""Select the migrations of a command: the next, the last, or up to one."""

from __future__ import annotations

from collections.abc import Sequence

from agent_storage.migrations.errors import HistoryProblem, InvalidRequest, NotReversible
from agent_storage.migrations.files.file import MigrationFile, MigrationKey, find_key
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackingTables


def to_apply(timelines: Timelines, count: int | None, to: str | None) -> list[MigrationFile]:
    """Return the pending migrations that `up` applies, in order."""
    files = timelines.pending
    if to is not None:
        last = find_key(to, [file.key for file in timelines.files], timelines.own)
        keys = [file.key for file in files]
        return files[: keys.index(last) + 1] if last in keys else []
    if count is not None and count < 1:
        raise InvalidRequest(f"{count} migrations cannot be applied", hint="give a number from 1")
    return files[:count]


def last_applied(timelines: Timelines, count: int, to: str | None, *, everything: bool) -> list[MigrationKey]:
    """Return the migrations of the own source that `down` rolls back, the last applied first."""
    applied = [entry.key for entry in timelines.of_own.applied.values()][::-1]
    if everything:
        return applied
    if to is not None:
        return applied[: applied.index(find_key(to, applied, timelines.own))]
    if count < 1:
        raise InvalidRequest(f"{count} migrations cannot be rolled back", hint="give a number from 1")
    return applied[:count]


def to_roll_back(tracking: TrackingTables, timelines: Timelines, keys: Sequence[MigrationKey]) -> list[MigrationFile]:
    """Return the migrations to roll back: the file, or the copy in the database if the file is missing or edited."""
    files = {file.key: file for file in timelines.files}
    chosen: list[MigrationFile] = []
    for key in keys:
        file = files.get(key)
        if file is None or file.down is None or timelines.applied[key].checksum not in {None, file.checksum}:
            file = tracking.stored(key) or file
        chosen.append(_reversible(key.name(timelines.own), file))
    return chosen


def _reversible(name: str, file: MigrationFile | None) -> MigrationFile:
    if file is None:
        hint = "stock yoyo applied it and stores no SQL; restore its files in the folder"
        raise HistoryProblem(f"{name} cannot be rolled back: its file is missing", hint=hint)
    if file.irreversible is not None:
        hint = "write a new migration instead"
        raise NotReversible(f"{name} is irreversible: {file.irreversible}", hint=hint)
    if file.down is None or not file.down.statements:
        hint = f"write {file.rollback_path.name}"
        raise HistoryProblem(f"{name} cannot be rolled back: it has no rollback file", hint=hint)
    return file
