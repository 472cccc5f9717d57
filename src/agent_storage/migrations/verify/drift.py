"""Compare the live database, the migrations and the declared schema with each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_storage.catalog import Catalog, Finding, compare
from agent_storage.migrations.history.tracking import Ledger
from agent_storage.migrations.history.yoyo import in_order
from agent_storage.migrations.results import Source
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.verify.declared import TABLES
from agent_storage.migrations.verify.shadow import ShadowServer
from agent_storage.migrations.verify.sources import as_applied, of_database, of_migrations, of_schema


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one source has to change to become like the other."""

    expected: str
    actual: str
    findings: list[Finding]

    @property
    def drift(self) -> list[Finding]:
        """The findings that matter; the others are for information."""
        return [finding for finding in self.findings if finding.severity == "drift"]

    @property
    def sql(self) -> list[str]:
        """The statements that make `actual` like `expected`, in order; what loses data stands behind two dashes."""
        return list(dict.fromkeys(finding.sql for finding in self.drift if finding.sql))


def drift(migrator: Migrations, server: ShadowServer) -> Comparison:
    """Compare the live database with what its applied migrations make. Only reads."""
    return diff(migrator, server, "db", "applied")


def diff(migrator: Migrations, server: ShadowServer, from_: Source, to: Source, tables: Path = TABLES) -> Comparison:
    """Return what has to change in `from_` to make it like `to`."""
    return Comparison(to, from_, compare(_read(migrator, server, to, tables), _read(migrator, server, from_, tables)))


def _read(migrator: Migrations, server: ShadowServer, source: Source, tables: Path) -> Catalog:
    if source == "schema":
        return of_schema(server, tables)
    if source == "migrations":
        return of_migrations(server, in_order(migrator.files()))
    with migrator.session() as session:
        if source == "db":
            return of_database(session)
        ledger = Ledger(session.connection)
        applied = as_applied(ledger, migrator.timeline(session, ledger))
    return of_migrations(server, applied)


def differences(expected: Catalog, actual: Catalog) -> list[str]:
    """The findings that matter, a line each."""
    return [line(finding) for finding in compare(expected, actual) if finding.severity == "drift"]


def line(finding: Finding) -> str:
    """A finding in a line: object, property, both values, folder."""
    what = f"{finding.kind} {finding.object}" + (f", {finding.property}" if finding.property else "")
    folder = (finding.table or "").rpartition(".")[2].strip('"')
    found = next(TABLES.glob(f"*/{folder}/"), None) if folder else None
    where = f" [tables/{found.parent.name}/{folder}]" if found else ""
    return f"{what}: expected {_shown(finding.expected)}, found {_shown(finding.actual)}{where}"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
