"""`Migrator`: the migration manager as a library. It returns typed results and raises `MigrationError`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.history.timelines import Timelines
from agent_storage.migrations.history.tracking import TrackingTables
from agent_storage.migrations.results import CheckName
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.verify.check import CheckReport, check
from agent_storage.migrations.verify.dependents import refuse_removing
from agent_storage.migrations.verify.drift import Comparison, drift
from agent_storage.migrations.verify.shadow import shadow_server


class Migrator(Migrations):
    """Apply, roll back, inspect and check the migrations of `sources` in one database.

        migrator = Migrator("postgresql://owner@localhost/app")
        migrator.up()

    By default there is the shipped source alone, or with `folder` the source of that folder of migrations. `up` applies
    the sources in their order. `down` and `redo` work in the source that `own` names, by default the last. `ignore`
    names objects that `drift` leaves out, as `schema.name` with `*`.

    `on_event` is called with each `Event`, also from another thread. Times are in seconds: `wait` limits the wait for
    the migration lock, `lock_timeout` the wait for a lock that a statement needs. When `lock_timeout` expires, the
    migration is rolled back and tried again, up to `retries` times.
    """

    def _refuse_removing(self, files: Sequence[MigrationFile], timelines: Timelines, tracking: TrackingTables) -> None:
        refuse_removing(files, timelines, tracking, lambda: shadow_server(self.conninfo, notify=self.notify))

    def drift(self, *, strict: bool = False, shadow_url: str | None = None) -> Comparison:
        """Compare the live database with the result of its applied migrations. Only reads from it.

        Objects that no configured source has made are `unmanaged`, or drift with `strict`.
        """
        with shadow_server(self.conninfo, shadow_url=shadow_url, notify=self.notify) as server:
            return drift(self, server, strict=strict)

    def check(
        self,
        names: Collection[CheckName] = tuple(CheckName),
        *,
        tables: Path | None = None,
        shadow_url: str | None = None,
    ) -> CheckReport:
        """Run these checks: lint, history, test (up, down, up), schema (the declared one), drift."""
        return check(
            self,
            lambda: shadow_server(self.conninfo, shadow_url=shadow_url, notify=self.notify),
            names,
            tables=tables,
        )
