"""All configured sources compared with the database: a `Timeline` of each, and one order of their migrations.

A migration that is recorded for a source that is not configured here is shown, and no command changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC

from agent_storage.migrations.files.author import existing_ids
from agent_storage.migrations.files.file import MigrationFile, MigrationKey
from agent_storage.migrations.history.timeline import Timeline
from agent_storage.migrations.history.tracking import TrackedMigration
from agent_storage.migrations.results import MigrationStatus, Problem
from agent_storage.sources import SHIPPED, Source, shipped


@dataclass(frozen=True)
class Timelines:
    """The configured sources: their `files` in the order in which they run, and what the database records.

    `own` is the source in which commands work. `recorded` is in the order of application.
    """

    own: str
    by_source: dict[str, Timeline]
    files: list[MigrationFile]
    recorded: list[TrackedMigration]

    @property
    def entries(self) -> list[TrackedMigration]:
        """The entries of the configured sources."""
        return [entry for entry in self.recorded if entry.source in self.by_source]

    @property
    def foreign(self) -> list[TrackedMigration]:
        """The entries of sources that are not configured here."""
        return [entry for entry in self.recorded if entry.source not in self.by_source]

    @property
    def of_own(self) -> Timeline:
        """The timeline of the own source."""
        return self.by_source[self.own]

    @property
    def applied(self) -> dict[MigrationKey, TrackedMigration]:
        """The applied migrations of the configured sources, the oldest first."""
        return {entry.key: entry for entry in self.entries if entry.applied}

    @property
    def pending(self) -> list[MigrationFile]:
        """Files that are not applied, in the order in which they would run."""
        waiting = {file.key for timeline in self.by_source.values() for file in timeline.pending}
        return [file for file in self.files if file.key in waiting]

    def squashed(self) -> list[MigrationFile]:
        """Return squashed files whose replaced migrations are all applied: they are recorded without running."""
        return [file for timeline in self.by_source.values() for file in timeline.squashed()]

    def to_adopt(self) -> list[MigrationFile]:
        """Return files that stock yoyo applied, whose checksum and SQL are not stored yet."""
        return [file for timeline in self.by_source.values() for file in timeline.to_adopt()]

    def problems(self, *, allow_out_of_order: bool = False, allow_ahead: bool = False) -> list[Problem]:
        """Return the problems of every source. Any of them prevents `up`, whose order is one over all sources."""
        found: list[Problem] = []
        for timeline in self.by_source.values():
            found += timeline.problems(allow_out_of_order=allow_out_of_order, allow_ahead=allow_ahead)
        return [*found, *self._renamed_sources()]

    def at_head(self) -> bool:
        """Return whether everything is applied, there is no problem, and the tracking tables are complete."""
        return not self.pending and not self.problems() and not self.to_adopt() and not self.squashed()

    def former(self, file: MigrationFile) -> TrackedMigration | None:
        """Return the applied migration of a source not configured here that is this file: the source was renamed."""
        same = (entry for entry in self.foreign if entry.applied and entry.id == file.id)
        return next((entry for entry in same if entry.checksum == file.checksum), None)

    def _renamed_sources(self) -> list[Problem]:
        found: list[Problem] = []
        for file in self.pending if self.foreign else ():
            former = self.former(file)
            if former is not None:
                message = f"{file.name} is pending, but {former.key} with the same SQL is applied"
                hint = (
                    f"if the source {former.source} is now called {file.source}, accept that with `storage migrate"
                    f" repair`; otherwise name it {former.source}=FOLDER in sources or STORAGE_SOURCES"
                )
                found.append(Problem(file.id, "renamed", message, hint, file.source))
        return found

    def statuses(self, problems: Sequence[Problem]) -> list[MigrationStatus]:
        """Return the state of every migration of the sources or the database, with its problem."""
        found = [status for timeline in self.by_source.values() for status in timeline.statuses(problems)]
        return [*found, *(_foreign(entry) for entry in self.foreign)]


def _foreign(entry: TrackedMigration) -> MigrationStatus:
    at = entry.applied_at.replace(tzinfo=UTC) if entry.applied_at else None
    status = MigrationStatus(entry.id, "not configured", at, entry.applied_by, entry.duration_ms)
    return replace(status, source=entry.key.source)


def read_timelines(
    sources: Sequence[Source], own: str, files: Sequence[MigrationFile], entries: Sequence[TrackedMigration]
) -> Timelines:
    """Compare files, which are in the order in which they run, with the rows of the tracking tables."""
    entries = assigned(entries, files, own)
    names = [source.name for source in sources]
    by_source = {
        name: Timeline(
            name,
            [file for file in files if file.source == name],
            [entry for entry in entries if entry.source == name],
            "" if name == own else f"{name}:",
        )
        for name in names
    }
    return Timelines(own, by_source, list(files), entries)


def assigned(entries: Sequence[TrackedMigration], files: Sequence[MigrationFile], own: str) -> list[TrackedMigration]:
    """Return the entries with the sources of those that stock yoyo or an older release has recorded.

    They belong to the source whose folder has the id. Otherwise those of an older release belong to the shipped source
    if it has recorded any, and the rest to the own source.
    """
    if all(entry.source is not None for entry in entries):
        return list(entries)
    ours = set(existing_ids(shipped().migrations))
    by_id: dict[str, list[MigrationFile]] = {}
    for file in files:
        by_id.setdefault(file.id, []).append(file)
    older = SHIPPED if any(entry.source is None and entry.id in ours for entry in entries) else own

    def owner(entry: TrackedMigration) -> str:
        stock = entry.checksum is None
        # An older release knew the shipped source first, stock yoyo only folders such as the own one.
        among = sorted(by_id.get(entry.id, []), key=lambda file: (file.source == own) is not stock)
        same = [file for file in among if file.checksum == entry.checksum] or among
        if same:
            return same[0].source
        if entry.id in ours:
            return SHIPPED
        return own if stock else older

    return [entry if entry.source is not None else replace(entry, source=owner(entry)) for entry in entries]
