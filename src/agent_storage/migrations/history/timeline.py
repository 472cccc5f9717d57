"""Compare the folder of one source with the tracking tables: applied and pending migrations, and contradictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from agent_storage.migrations.errors import HistoryProblem
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.tracking import TrackedMigration
from agent_storage.migrations.results import MigrationStatus, Problem, ProblemKind


@dataclass(frozen=True)
class Timeline:
    """One source: `files` in the order in which they run, `entries` in the order in which they were applied."""

    source: str
    files: list[MigrationFile]
    entries: list[TrackedMigration]
    #: Precedes an id in a message: nothing in the own source, else `SOURCE:`.
    prefix: str = ""

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

    @property
    def _option(self) -> str:
        """The option by which a command works in this source."""
        return f" --source {self.source}" if self.prefix else ""

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

    def _problem(self, id_: str, kind: ProblemKind, message: str, hint: str) -> Problem:
        return Problem(id_, kind, message, hint, self.source)

    def _unfinished(self) -> list[Problem]:
        return [
            self._problem(
                entry.id,
                "running" if entry.state == "running" else "failed",
                f"{self.prefix}{entry.id} stopped"
                f" {'during its rollback ' if entry.direction == 'down' else ''}after statement"
                f" {entry.done_statements} of {entry.total_statements}"
                + (f": {entry.error}" if entry.error else ": its migrator ended"),
                f"correct what it left, then `storage migrate resolve {self.prefix}{entry.id} --resume`",
            )
            for entry in self.entries
            if entry.unfinished
        ]

    def _edited(self) -> list[Problem]:
        applied = self.applied
        return [
            self._problem(
                file.id,
                "edited",
                f"{self.prefix}{file.path.name} was changed after it was applied",
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
        name, twin = self.prefix + id_, self.twin(id_)
        if twin is not None:
            hint = f"rename it to {id_}.sql, or accept the new name with `storage migrate repair`"
            message = f"{name} is applied, but its file is now called {twin.path.name}"
            return self._problem(id_, "renamed", message, hint)
        hint = f"restore the file, which may be on another branch; `storage migrate show {name}` prints the SQL"
        return self._problem(id_, "missing", f"{name} is applied, but its file is missing from the folder", hint)

    def twin(self, id_: str) -> MigrationFile | None:
        """Return the pending file with the checksum of the applied `id_`, which was renamed."""
        return next((file for file in self.pending if file.checksum == self.applied[id_].checksum), None)

    def _half_squashed(self) -> list[Problem]:
        applied = self.applied
        found: list[Problem] = []
        for file in self.files:
            parts = [part for part in file.replaces if part in applied]
            if parts and file.id not in applied and len(parts) < len(file.replaces):
                message = (
                    f"{file.name} replaces {len(file.replaces)} migrations, of which only {len(parts)} are applied"
                )
                hint = "apply the rest with the files from before the squash first"
                found.append(self._problem(file.id, "missing", message, hint))
        return found

    def _out_of_order(self) -> list[Problem]:
        newest = max(self.applied, default="")
        return [
            self._problem(
                file.id,
                "out-of-order",
                f"{file.name} is older than {newest}, which is already applied",
                f"`storage migrate rebase{self._option}` gives it a new date;"
                " `-- out-of-order: ok` in the file permits it",
            )
            for file in self.pending
            if file.id < newest and not file.out_of_order
        ]

    def statuses(self, problems: Sequence[Problem]) -> list[MigrationStatus]:
        """Return the state of every migration of the folder or the database, in order, with its problem."""
        messages = {problem.id: problem.message for problem in problems if problem.source == self.source}
        files = {file.id: file for file in self.files}
        entries = {entry.id: entry for entry in self.entries}
        done = self._done()
        parts = {part for file in self.files for part in file.replaces}
        gone = [id_ for id_ in entries if id_ not in files and id_ not in parts]
        return [
            _status(self.source, id_, entries.get(id_), files.get(id_), id_ in done, messages.get(id_))
            for id_ in [*gone, *(file.id for file in self.files)]
        ]


def _differs(file: MigrationFile, entry: TrackedMigration) -> bool:
    """Return whether the file's tokens differ from those that were applied. An identical text is not tokenised."""
    return entry.checksum is not None and entry.text_md5 != file.up.md5 and entry.checksum != file.checksum


def refuse(problems: Sequence[Problem]) -> None:
    """Raise `HistoryProblem` if there is a problem. The first is the message, the others are its lines."""
    if problems:
        first, *others = problems
        raise HistoryProblem(first.message, hint=first.hint, lines=[problem.message for problem in others])


def _status(
    source: str, id_: str, entry: TrackedMigration | None, file: MigrationFile | None, done: bool, problem: str | None
) -> MigrationStatus:
    reversible = file is None or (file.irreversible is None and file.down is not None)
    if entry is None:
        return MigrationStatus(id_, "applied" if done else "pending", None, None, None, reversible, problem, source)
    state = "missing" if file is None else "applied"
    if entry.unfinished:
        state = "running" if entry.state == "running" else "failed"
    at = entry.applied_at.replace(tzinfo=UTC) if entry.applied_at else None
    return MigrationStatus(id_, state, at, entry.applied_by, entry.duration_ms, reversible, problem, source)
