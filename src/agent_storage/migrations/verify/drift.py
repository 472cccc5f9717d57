"""Compare the live database, the migrations and the declared schema with each other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from agent_storage.catalog import Catalog, Difference, compare
from agent_storage.migrations.errors import StatementFailed
from agent_storage.migrations.results import Event, Side
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.verify.catalogs import as_applied, as_recorded, beside_database, of_migrations, of_schema
from agent_storage.migrations.verify.declared import TABLES
from agent_storage.migrations.verify.managed import compare_live, without_ignored
from agent_storage.migrations.verify.shadow import ShadowServer


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between two sources."""

    expected: str
    actual: str
    differences: list[Difference]
    #: Objects of the database that no configured source has made.
    unmanaged: list[Difference] = field(default_factory=list[Difference])

    @property
    def drift(self) -> list[Difference]:
        """The differences that are drift; the others are for information."""
        return [difference for difference in self.differences if difference.severity == "drift"]

    @property
    def sql(self) -> list[str]:
        """The statements that make `actual` like `expected`, in order. Those that discard data are commented out."""
        return list(dict.fromkeys(difference.sql for difference in self.drift if difference.sql))


def drift(migrator: Migrations, server: ShadowServer, *, strict: bool = False) -> Comparison:
    """Compare the live database with what its applied migrations make. Only reads.

    With `strict`, an object that no configured source has made is drift, too.
    """
    return diff(migrator, server, "db", "applied", strict=strict)


def diff(
    migrator: Migrations,
    server: ShadowServer,
    from_: Side,
    to: Side,
    tables: Path | None = None,
    *,
    strict: bool = False,
) -> Comparison:
    """Return what has to change in `from_` to make it like `to`. `tables` replaces the folder of the own source.

    Objects of the database that no configured source has made are listed apart, unless `strict`.
    """
    if from_ == to:
        return Comparison(to, from_, [])
    read = {side: _read(migrator, server, side, tables) for side in (from_, to) if side != "db"}
    if "db" in (from_, to):
        ((side, catalog),) = read.items()
        with migrator.session() as session:
            read[side], live = beside_database(session, catalog)
        read["db"] = without_ignored(live, migrator.ignore)
    if from_ != "db":
        return Comparison(to, from_, compare(read[to], read[from_]))
    found = compare_live(read[to], read["db"], _with_foreign(migrator, server))
    if strict:
        return Comparison(to, from_, [*found.differences, *found.unmanaged])
    return Comparison(to, from_, found.differences, found.unmanaged)


def _with_foreign(migrator: Migrations, server: ShadowServer) -> Catalog | None:
    """Return what all recorded migrations make, also those of other sources; None if there are none of those."""
    with migrator.session() as session:
        tracking = migrator.tracking(session)
        timelines = migrator.timelines(session, tracking)
        if not any(entry.applied for entry in timelines.foreign):
            return None
        files = as_recorded(tracking, timelines)
    try:
        return without_ignored(of_migrations(server, files), migrator.ignore)
    except StatementFailed as error:
        # They may have needed rows or roles that the shadow database lacks.
        migrator.notify(Event("note", f"migrations of other sources are left out of the comparison: {error.message}"))
        return None


def _read(migrator: Migrations, server: ShadowServer, side: Side, tables: Path | None) -> Catalog:
    return without_ignored(_whole(migrator, server, side, tables), migrator.ignore)


def _whole(migrator: Migrations, server: ShadowServer, side: Side, tables: Path | None) -> Catalog:
    if side == "schema":
        own = replace(migrator.own, tables=tables) if tables else migrator.own
        sources = [own if source == migrator.own else source for source in migrator.sources]
        return of_schema(server, sources, migrator.files())
    if side == "migrations":
        return of_migrations(server, migrator.files())
    with migrator.session() as session:
        tracking = migrator.tracking(session)
        applied = as_applied(tracking, migrator.timelines(session, tracking))
    return of_migrations(server, applied)


def differences(expected: Catalog, actual: Catalog) -> list[str]:
    """Return the differences that are drift, a line each."""
    return [line(difference) for difference in compare(expected, actual) if difference.severity == "drift"]


def line(difference: Difference) -> str:
    """Return a difference as a line: object, property, both values, folder."""
    what = f"{difference.kind} {difference.object}" + (f", {difference.property}" if difference.property else "")
    folder = (difference.table or "").rpartition(".")[2].strip('"')
    found = next(TABLES.glob(f"*/{folder}/"), None) if folder else None
    where = f" [tables/{found.parent.name}/{folder}]" if found else ""
    return f"{what}: expected {_shown(difference.expected)}, found {_shown(difference.actual)}{where}"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
