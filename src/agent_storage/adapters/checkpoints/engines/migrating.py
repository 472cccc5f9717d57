"""The migrations of SQLite and MySQL: up and down, by one process at a time, to the end after a crash.

SQLite runs all of them in one transaction. MySQL commits each statement of DDL by itself, and each is atomic there. So
the table `checkpoint_migrations` has the number of the statement that was begun last and of the one that is done. If a
process is killed between the two, the next one executes that statement again, where "exists already" means that it had
been executed. A statement that changes rows is committed together with its number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent_storage.adapters.checkpoints.engines.engine import Engine, Run
from agent_storage.errors import MigrationError, SchemaMismatch, StorageError
from agent_storage.migrations.files.file import MigrationFile, SqlText, read_folder
from agent_storage.tables.checkpoints import checkpoints

FOLDER = Path(str(checkpoints.__file__)).parent

_TRACKING = (
    "CREATE TABLE IF NOT EXISTS checkpoint_migrations (id VARCHAR(200) NOT NULL PRIMARY KEY,"
    " direction VARCHAR(4) NOT NULL, begun INTEGER NOT NULL, done INTEGER NOT NULL, finished_at BIGINT)"
)


class EngineMigrations:
    """The migrations in the engine's folder beside the table."""

    def __init__(self, engine: Engine[Any], folder: Path | None = None) -> None:
        self._engine = engine
        self.folder = folder or FOLDER / engine.name

    def up(self) -> list[str]:
        """Apply the pending migrations. Return their ids. At head, and ahead of it, it only reads."""
        if not self.pending():
            return []
        files = read_folder(self.folder)
        with self._engine.exclusive() as run:
            run(_TRACKING, ())
            self._finish_rollback(run, files)
            applied = _applied(run)
            due = [file for file in files if file.id not in applied]
            for file in due:
                self._run(run, file.id, "up", file.up)
            return [file.id for file in due]

    def down(self, steps: int = 1) -> list[str]:
        """Roll back the newest migrations. Return their ids. Raises `MigrationError` if one has none."""
        files = read_folder(self.folder)
        with self._engine.exclusive() as run:
            run(_TRACKING, ())
            self._finish_rollback(run, files)
            applied = _applied(run)
            if halfway := run("SELECT id FROM checkpoint_migrations WHERE finished_at IS NULL", ()):
                raise MigrationError(f"{halfway[0][0]} was interrupted; initialize() finishes it, then roll back")
            gone = [file for file in reversed(files) if file.id in applied][:steps]
            for file in gone:
                self._roll_back(run, file)
            return [file.id for file in gone]

    def pending(self) -> list[str]:
        """Return the ids of the migrations that the database lacks."""
        try:
            rows = self._engine.read("SELECT id FROM checkpoint_migrations WHERE finished_at IS NOT NULL", ())
        except SchemaMismatch:
            rows = []
        applied = {id_ for (id_,) in rows}
        return [file.id for file in read_folder(self.folder) if file.id not in applied]

    def _finish_rollback(self, run: Run, files: list[MigrationFile]) -> None:
        """Finish the rollback that a crash interrupted."""
        halfway = {id_ for (id_,) in run("SELECT id FROM checkpoint_migrations WHERE direction = 'down'", ())}
        for file in reversed(files):
            if file.id in halfway:
                self._roll_back(run, file)

    def _roll_back(self, run: Run, file: MigrationFile) -> None:
        if file.down is None:
            raise MigrationError(
                f"{file.id} has no rollback file; restore a backup, or write {file.rollback_path.name}"
            )
        self._run(run, file.id, "down", file.down)
        run("DELETE FROM checkpoint_migrations WHERE id = ?", (file.id,))

    def _run(self, run: Run, id_: str, direction: str, sql: SqlText) -> None:
        state = run("SELECT begun, done FROM checkpoint_migrations WHERE id = ? AND direction = ?", (id_, direction))
        begun, done = state[0] if state else (0, 0)
        if not state and direction == "up":
            run("INSERT INTO checkpoint_migrations VALUES (?, 'up', 0, 0, NULL)", (id_,))
        elif not state:  # one statement: a row that was gone for a moment would be a migration that was never applied
            changes = "direction = 'down', begun = 0, done = 0, finished_at = NULL"
            run(f"UPDATE checkpoint_migrations SET {changes} WHERE id = ?", (id_,))
        for number, statement in enumerate(sql.statements[done:], start=done + 1):
            if number > begun:
                run("UPDATE checkpoint_migrations SET begun = ? WHERE id = ?", (number, id_))
            with self._engine.step(run):
                self._execute(run, statement.text, id_, unsure=number == begun)
                run("UPDATE checkpoint_migrations SET done = ? WHERE id = ?", (number, id_))
        if direction == "up":
            run(f"UPDATE checkpoint_migrations SET finished_at = {self._engine.clock} WHERE id = ?", (id_,))

    def _execute(self, run: Run, text: str, id_: str, *, unsure: bool) -> None:
        """Execute a statement of a migration. `unsure`: another process may have, before it was killed."""
        try:
            run(text, ())
        except Exception as error:
            if unsure and self._engine.already(error):
                return
            translated = self._engine.translated(error, writes=True)
            if type(translated) not in (StorageError, SchemaMismatch):
                raise
            raise MigrationError(f"{self._engine.address}: the migration {id_} failed: {error.args[-1]}") from error


def _applied(run: Run) -> set[str]:
    return {id_ for (id_,) in run("SELECT id FROM checkpoint_migrations WHERE finished_at IS NOT NULL", ())}
