"""Compare the folder with the tracking tables: applied and pending migrations, and contradictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from agent_storage.migrations.errors import HistoryProblem
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.tracking import TrackedMigration
from agent_storage.migrations.results import MigrationStatus, Problem


@dataclass(frozen=True)
class Timeline:
    """A snapshot of folder and database: `files` in the order of the folder, `entries` in the order of application."""

    files: list[MigrationFile]
    entries: list[TrackedMigration]

    @property
    def applied(self) -> dict[str, TrackedMigration]:
        """Applied migrations by id, the oldest first."""
        return {entry.id: entry for entry in self.entries if entry.applied}

    @property
    def pending(self) -> list[MigrationFile]:
        """Files that are not applied, in the order in which they would run."""
        done = self._done()
        return [file for file in self.files if file.id not in done]

    def squashed(self) -> list[MigrationFile]:
        """Return squashed files whose replaced migrations are all applied: they are recorded without running."""
        applied = self.applied
        return [
            file
            for file in self.files
            if file.replaces and file.id not in applied and all(part in applied for part in file.replaces)
        ]

    def _done(self) -> set[str]:
        return self.applied.keys() | {file.id for file in self.squashed()}

    def to_adopt(self) -> list[MigrationFile]:
        """Return files that stock yoyo applied, in its order, whose checksum and SQL are not stored yet."""
        files = {file.id: file for file in self.files}
        return [files[id_] for id_, entry in self.applied.items() if id_ in files and entry.checksum is None]

    def problems(self, *, allow_out_of_order: bool = False, allow_ahead: bool = False) -> list[Problem]:
        """Return the problems that prevent `up`. `allow_ahead`: ignore applied migrations of a newer version."""
        found = [*self._unfinished(), *self._edited(), *self._gone(allow_ahead=allow_ahead), *self._half_squashed()]
        return found if allow_out_of_order else [*found, *self._out_of_order()]

    def at_head(self) -> bool:
        """Return whether everything is applied, there is no problem, and the tracking tables are complete."""
        return not self.pending and not self.problems() and not self.to_adopt() and not self.squashed()

    def _unfinished(self) -> list[Problem]:
        return [
            Problem(
                entry.id,
                "running" if entry.state == "running" else "failed",
                f"{entry.id} stopped {'during its rollback ' if entry.direction == 'down' else ''}after statement"
                f" {entry.done_statements} of {entry.total_statements}"
                + (f": {entry.error}" if entry.error else ": its migrator ended"),
                f"correct what it left, then `storage migrate resolve {entry.id} --resume`",
            )
            for entry in self.entries
            if entry.unfinished
        ]

    def _edited(self) -> list[Problem]:
        applied = self.applied
        return [
            Problem(
                file.id,
                "edited",
                f"{file.path.name} was changed after it was applied",
                "undo the edit and write a new migration; to accept the edit: `storage migrate repair`",
            )
            for file in self.files
            if file.id in applied and _differs(file, applied[file.id])
        ]

    def _gone(self, *, allow_ahead: bool) -> list[Problem]:
        known = {file.id for file in self.files} | {part for file in self.files for part in file.replaces}
        newest = max((file.id for file in self.files), default="")
        missing = [id_ for id_ in self.applied if id_ not in known and not (allow_ahead and id_ > newest)]
        return [self._missing(id_) for id_ in missing]

    def _missing(self, id_: str) -> Problem:
        twin = self.twin(id_)
        if twin is not None:
            hint = f"rename it to {id_}.sql, or accept the new name with `storage migrate repair`"
            return Problem(id_, "renamed", f"{id_} is applied, but its file is now called {twin.path.name}", hint)
        hint = "if it is on another branch, `storage migrate sync` rolls it back; `storage migrate show` prints its SQL"
        return Problem(id_, "missing", f"{id_} is applied, but its file is missing from the folder", hint)

    def twin(self, id_: str) -> MigrationFile | None:
        """Return the pending file with the checksum of the applied `id_`, which was renamed."""
        return next((file for file in self.pending if file.checksum == self.applied[id_].checksum), None)

    def _half_squashed(self) -> list[Problem]:
        applied = self.applied
        found: list[Problem] = []
        for file in self.files:
            parts = [part for part in file.replaces if part in applied]
            if parts and file.id not in applied and len(parts) < len(file.replaces):
                message = f"{file.id} replaces {len(file.replaces)} migrations, of which only {len(parts)} are applied"
                hint = "apply the rest with the files from before the squash first"
                found.append(Problem(file.id, "missing", message, hint))
        return found

    def _out_of_order(self) -> list[Problem]:
        newest = max(self.applied, default="")
        return [
            Problem(
                file.id,
                "out-of-order",
                f"{file.id} is older than {newest}, which is already applied",
                "`storage migrate rebase` gives it a new date; `-- out-of-order: ok` in the file permits it",
            )
            for file in self.pending
            if file.id < newest and not file.out_of_order
        ]

    def statuses(self, problems: Sequence[Problem]) -> list[MigrationStatus]:
        """Return the state of every migration of the folder or the database, in order, with its problem."""
        messages = {problem.id: problem.message for problem in problems}
        files = {file.id: file for file in self.files}
        entries = {entry.id: entry for entry in self.entries}
        done = self._done()
        parts = {part for file in self.files for part in file.replaces}
        gone = [id_ for id_ in entries if id_ not in files and id_ not in parts]
        return [
            _status(id_, entries.get(id_), files.get(id_), id_ in done, messages.get(id_))
            for id_ in [*gone, *(file.id for file in self.files)]
        ]


def read_timeline(files: Sequence[MigrationFile], entries: Sequence[TrackedMigration]) -> Timeline:
    """Return the timeline of files, which are in the order in which they run."""
    return Timeline(list(files), list(entries))


def _differs(file: MigrationFile, entry: TrackedMigration) -> bool:
    """Return whether the file's tokens differ from those that were applied. An identical text is not tokenised."""
    return entry.checksum is not None and entry.text_md5 != file.up.md5 and entry.checksum != file.checksum


def refuse(problems: Sequence[Problem]) -> None:
    """Raise `HistoryProblem` if there is a problem. The first is the message, the others are its lines."""
    if problems:
        first, *others = problems
        raise HistoryProblem(first.message, hint=first.hint, lines=[problem.message for problem in others])


def _status(
    id_: str, entry: TrackedMigration | None, file: MigrationFile | None, done: bool, problem: str | None
) -> MigrationStatus:
    reversible = file is None or (file.irreversible is None and file.down is not None)
    if entry is None:
        return MigrationStatus(id_, "applied" if done else "pending", reversible=reversible, problem=problem)
    state = "missing" if file is None else "applied"
    if entry.unfinished:
        state = "running" if entry.state == "running" else "failed"
    at = entry.applied_at.replace(tzinfo=UTC) if entry.applied_at else None
    return MigrationStatus(id_, state, at, entry.applied_by, entry.duration_ms, reversible, problem)
