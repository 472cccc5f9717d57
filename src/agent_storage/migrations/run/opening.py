"""Prepare the tracking tables for a run: create them, adopt migrations of stock yoyo, record squashed ones."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent_storage.migrations.errors import LockNotObtained
from agent_storage.migrations.files.file import MigrationFile, MigrationKey
from agent_storage.migrations.history.timelines import assigned, read_timelines
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.run.lock import holders, not_obtained, tries, try_lock
from agent_storage.migrations.run.session import MigrationSession
from agent_storage.sources import Source


def open_tracking(
    session: MigrationSession, sources: Sequence[Source], own: str, files: Sequence[MigrationFile], wait: float
) -> TrackingTables:
    """Return the tracking tables, created and complete. Refused while stock yoyo is running."""
    for pause in tries(wait):
        # Behind a pooler this is the only lock. Otherwise the session holds it already and gets it at once.
        with session.connection.transaction():
            if try_lock(session.connection, transaction=True):
                return _complete(session, sources, own, files)
        if pause is None:
            break
        time.sleep(pause)
    raise not_obtained(holders(session.connection), wait)


def _complete(
    session: MigrationSession, sources: Sequence[Source], own: str, files: Sequence[MigrationFile]
) -> TrackingTables:
    tracking = TrackingTables(session.connection, own)
    _refuse_stock_yoyo(tracking)
    tracking.create(lambda entries: assigned(entries, files, own))
    timelines = read_timelines(sources, own, files, tracking.entries())
    tracking.forget_stale([source.name for source in sources])
    for file in timelines.to_adopt():
        tracking.adopt(file)
    for file in timelines.squashed():
        for part in file.replaces:
            tracking.record_rolled_back(MigrationKey(file.source, part), "unmark")
        tracking.record_applied(file, origin="squash", operation="mark")
    return tracking


def _refuse_stock_yoyo(tracking: TrackingTables) -> None:
    found = tracking.stock_lock()
    if found is not None:
        pid, since = found
        raise LockNotObtained(
            f"stock yoyo's lock is held by process {pid} since {since:%Y-%m-%d %H:%M:%S} UTC",
            hint="wait until it ends; if it has ended, `storage migrate repair` removes its lock",
        )
