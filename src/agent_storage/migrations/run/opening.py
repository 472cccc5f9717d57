"""Opens the books for a run: tables made, stock yoyo's work taken over, squashed migrations entered."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent_storage.migrations.errors import LockNotObtained
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timeline import read_timeline
from agent_storage.migrations.history.tracking import Ledger
from agent_storage.migrations.run.lock import holders, not_obtained, tries, try_lock
from agent_storage.migrations.run.session import Session


def open_books(session: Session, files: Sequence[MigrationFile], wait: float) -> Ledger:
    """The ledger with its tables there and complete; refused while stock yoyo is at work."""
    for pause in tries(wait):
        # Behind a pooler this is the only lock; otherwise the session holds it already and gets it at once.
        with session.connection.transaction():
            if try_lock(session.connection, transaction=True):
                return _complete(session, files)
        if pause is None:
            break
        time.sleep(pause)
    raise not_obtained(holders(session.connection), wait)


def _complete(session: Session, files: Sequence[MigrationFile]) -> Ledger:
    ledger = Ledger(session.connection)
    _refuse_stock_yoyo(ledger)
    ledger.create()
    timeline = read_timeline(files, ledger.entries())
    ledger.forget_stale()
    for file in timeline.to_adopt():
        ledger.adopt(file)
    for file in timeline.squashed():
        for part in file.replaces:
            ledger.record_rolled_back(part, "unmark")
        ledger.record_applied(file, origin="squash", operation="mark")
    return ledger


def _refuse_stock_yoyo(ledger: Ledger) -> None:
    found = ledger.stock_lock()
    if found is not None:
        pid, since = found
        raise LockNotObtained(
            f"stock yoyo's lock is held by process {pid} since {since:%Y-%m-%d %H:%M:%S} UTC",
            hint="let it finish; if it is gone, `storage migrate repair` removes its lock",
        )
