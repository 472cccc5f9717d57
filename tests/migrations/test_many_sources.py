"""Several sources in one database: one timeline of each, one run over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from agent_storage.migrations.errors import BadMigrationFile, HistoryProblem, InvalidRequest
from agent_storage.migrations.files.file import read_folder
from agent_storage.migrations.migrator import Migrator
from agent_storage.sources import SHIPPED, Source, shipped

from .conftest import Folder, tables

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"
SAME = "20260104000000_same"


@dataclass
class Sources:
    """Three sources with a folder each; they run in this order."""

    path: Path

    def __post_init__(self) -> None:
        for name in ("first", "second", "third"):
            (self.path / name).mkdir()

    def folder(self, name: str) -> Folder:
        return Folder(self.path / name)

    def source(self, name: str) -> Source:
        return Source(name, self.path / name / "tables", self.path / name)

    def migrator(self, database: str, *names: str, own: str | None = None) -> Migrator:
        chosen = [self.source(name) for name in names or ("first", "second", "third")]
        return Migrator(database, sources=chosen, own=own, wait=20)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    found = Sources(tmp_path)
    found.folder("first").table(C, "first_c")
    found.folder("second").table(B, "second_b")
    found.folder("third").table(A, "third_a")
    return found


def done(result: object) -> list[tuple[str, str]]:
    return [(one.source, one.id) for one in result.done]  # type: ignore[attr-defined]


def test_sources_run_in_their_order_whatever_their_names_are(database: str, sources: Sources) -> None:
    migrator = sources.migrator(database)
    assert migrator.status().pending == [f"first:{C}", f"second:{B}", A]
    assert done(migrator.up()) == [("first", C), ("second", B), ("third", A)]
    assert migrator.status().at_head
    assert not migrator.up().changed


def test_each_source_is_a_timeline_of_its_own(database: str, sources: Sources) -> None:
    sources.migrator(database).up()
    sources.folder("first").table("20260103120000_late", "late")  # older than what? Newer than all of its own source.
    sources.folder("second").table("20250101000000_too_late", "too_late")
    problems = sources.migrator(database).status().problems
    assert [(one.source, one.id, one.kind) for one in problems] == [
        ("second", "20250101000000_too_late", "out-of-order")
    ]
    assert problems[0].hint.startswith("`storage migrate rebase --source second` gives it a new date")


def test_an_upgrade_of_the_package_with_older_file_names_is_applied(database: str, sources: Sources) -> None:
    sources.folder("third").table("20990101000000_ours", "ours")
    sources.migrator(database).up()
    sources.folder("first").table("20260105000000_upgrade", "upgrade")
    assert done(sources.migrator(database).up()) == [("first", "20260105000000_upgrade")]


def test_two_sources_may_have_migrations_of_the_same_name(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    for name in ("first", "second", "third"):
        sources.folder(name).table(SAME, f"{name}_same")
    migrator = sources.migrator(database)
    migrator.up()
    assert migrator.status().at_head
    hashes = connection.execute("SELECT count(DISTINCT migration_hash) FROM _yoyo_migration").fetchone()
    assert hashes == (6,)
    assert done(sources.migrator(database, own="first").down()) == [("first", SAME)]
    assert tables(connection) == {"first_c", "second_b", "third_a", "second_same", "third_same"}
    assert sources.migrator(database).status().pending == [f"first:{SAME}"]
    assert done(sources.migrator(database, own="third").down()) == [("third", SAME)]
    assert done(sources.migrator(database).up()) == [("first", SAME), ("third", SAME)]
    assert sources.migrator(database).status().at_head


def test_an_edit_of_any_source_prevents_up(database: str, sources: Sources) -> None:
    sources.migrator(database).up()
    sources.folder("second").write(B, "CREATE TABLE other ();")
    sources.folder("third").table(C, "third_c")
    with pytest.raises(HistoryProblem, match=f"second:{B}.sql was changed after it was applied"):
        sources.migrator(database).up()
    assert not sources.migrator(database, "second").status().at_head


def test_down_and_redo_work_in_the_own_source_alone(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    migrator = sources.migrator(database)
    migrator.up()
    sources.folder("first").table("20260105000000_d", "first_d")
    assert done(migrator.redo()) == [("third", A), ("third", A)]  # and not the pending one of the first source
    assert done(migrator.down(all=True)) == [("third", A)]
    assert done(migrator.down(7)) == []
    assert tables(connection) == {"first_c", "second_b"}
    assert done(sources.migrator(database, own="second").down(all=True)) == [("second", B)]


def test_a_migration_can_depend_on_one_of_another_source(database: str, sources: Sources) -> None:
    sources.folder("first").write(C, f"-- depends: third:{A}\nCREATE TABLE first_c ();", "DROP TABLE first_c;")
    migrator = sources.migrator(database)
    assert done(migrator.up()) == [("second", B), ("third", A), ("first", C)]
    with pytest.raises(InvalidRequest, match=f"{A} cannot be rolled back: first:{C} depends on it"):
        migrator.down()
    with pytest.raises(InvalidRequest, match="depends on it"):  # nor where the other source is not configured
        sources.migrator(database, "third").down()
    assert sources.migrator(database).status().at_head


def test_a_dependency_that_is_not_there_is_an_error_of_both_names(database: str, sources: Sources) -> None:
    sources.folder("third").write(A, "-- depends: first:20250101000000_x\nSELECT 1;")
    with pytest.raises(BadMigrationFile, match=f"{A}.sql of third depends on first:20250101000000_x, which is not in"):
        sources.migrator(database).up()
    sources.folder("third").write(A, "-- depends: nowhere:20250101000000_x\nSELECT 1;")
    with pytest.raises(BadMigrationFile, match="whose source is not configured here") as caught:
        sources.migrator(database).up()
    assert caught.value.hint == "add nowhere to the sources; configured are: first, second, third"


def test_a_circle_over_two_sources_is_an_error(database: str, sources: Sources) -> None:
    sources.folder("first").write(C, f"-- depends: third:{A}\nSELECT 1;")
    sources.folder("third").write(A, f"-- depends: first:{C}\nSELECT 1;")
    with pytest.raises(BadMigrationFile, match=f"circular dependencies: first:{C}, {A}"):
        sources.migrator(database).up()


def test_what_is_recorded_for_another_source_is_shown_and_left_alone(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.migrator(database).up()
    alone = sources.migrator(database, "second")
    status = alone.status()
    assert status.at_head
    assert [(one.source, one.state) for one in status.migrations] == [
        ("second", "applied"),
        ("first", "not configured"),
        ("third", "not configured"),
    ]
    assert not alone.up().changed
    assert done(alone.down(all=True)) == [("second", B)]
    assert tables(connection) == {"first_c", "third_a"}
    alone.ensure_current()
    assert alone.drift().drift == []


def test_a_renamed_source_is_a_problem_and_repair_takes_the_new_name(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    from agent_storage.migrations.commands.amend import repair, to_repair

    sources.migrator(database, "third").up()
    (sources.path / "third").rename(sources.path / "fourth")
    renamed = Migrator(database, sources=[sources.source("fourth")])
    with pytest.raises(HistoryProblem, match=f"{A} is pending, but third:{A} with the same SQL is applied"):
        renamed.up()
    assert to_repair(renamed) == [f"record third:{A} as a migration of fourth"]
    repair(renamed)
    assert renamed.status().at_head
    assert done(renamed.down()) == [("fourth", A)]
    assert tables(connection) == set()


def test_the_sources_of_a_migrator_are_distinct(database: str, sources: Sources) -> None:
    twice = Source("other", sources.path, sources.path / "first")
    with pytest.raises(InvalidRequest, match="two sources have"):
        Migrator(database, sources=[sources.source("first"), twice])
    with pytest.raises(InvalidRequest, match="two sources are called first"):
        sources.migrator(database, "first", "first")
    with pytest.raises(InvalidRequest, match="there is no source 'nowhere'"):
        sources.migrator(database, own="nowhere")
    with pytest.raises(InvalidRequest, match="there is no source of migrations"):
        Migrator(database, sources=[])


# Databases of an earlier release


OLDER = """
ALTER TABLE _storage_migration DROP CONSTRAINT _storage_migration_pkey;
ALTER TABLE _storage_migration DROP COLUMN source;
ALTER TABLE _storage_migration ADD PRIMARY KEY (migration_id);
"""


def test_a_database_of_an_earlier_release_is_taken_over_at_the_first_write(
    database: str, sources: Sources, connection: psycopg.Connection, role: str
) -> None:
    Migrator(database).up()
    connection.execute(OLDER)
    connection.execute(f"GRANT SELECT ON _yoyo_migration, _storage_migration TO {role}")
    both = [shipped(), sources.source("third")]
    reader = Migrator(psycopg.conninfo.make_conninfo(database, user=role), sources=both)
    assert {(one.source, one.state) for one in reader.status().migrations} == {
        (SHIPPED, "applied"),
        ("third", "pending"),
    }
    assert reader.status().problems == []
    assert done(Migrator(database, sources=both).up()) == [("third", A)]
    count = len(read_folder(shipped().migrations))
    found = connection.execute("SELECT source, count(*) FROM _storage_migration GROUP BY 1 ORDER BY 1").fetchall()
    assert found == [(SHIPPED, count), ("third", 1)]
    assert reader.status().at_head
    assert Migrator(database, sources=both).drift().drift == []


def test_an_earlier_release_without_our_tables_is_taken_over_by_the_source_that_has_the_files(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.folder("third").table(B, "third_b")
    sources.migrator(database, "third").up()
    connection.execute(OLDER)
    sources.folder("third").remove(B)
    status = sources.migrator(database, "third").status()
    assert [(one.source, one.id, one.state) for one in status.migrations] == [
        ("third", B, "missing"),
        ("third", A, "applied"),
    ]
    assert done(sources.migrator(database, "third").down(2)) == [("third", B), ("third", A)]
    assert tables(connection) == set()


# Drift: managed, not managed, ignored


def lines(migrator: Migrator, *, strict: bool = False) -> tuple[list[str], list[str]]:
    found = migrator.drift(strict=strict)
    return [f"{one.object} {one.property}" for one in found.drift], sorted(one.object for one in found.unmanaged)


def test_objects_that_no_source_made_are_listed_and_drift_only_if_strict(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.migrator(database).up()
    connection.execute("CREATE TABLE legacy (id int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.t ()")
    connection.execute("CREATE FUNCTION by_hand() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    drift, unmanaged = lines(sources.migrator(database))
    assert drift == []
    assert unmanaged == ["public.by_hand()", "public.legacy"]  # other schemas belong to other programs
    strict = sources.migrator(database).drift(strict=True)
    assert {one.object for one in strict.drift} == set(unmanaged)
    assert strict.sql == []  # never a statement that drops them


def test_a_change_by_hand_of_a_table_of_any_source_is_drift(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.migrator(database).up()
    connection.execute("ALTER TABLE first_c ADD COLUMN by_hand int; CREATE INDEX by_hand ON third_a (id)")
    assert lines(sources.migrator(database)) == (["public.by_hand unexpected", "public.first_c.by_hand unexpected"], [])


def test_parts_of_our_tables_that_another_source_made_are_no_drift(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.folder("third").write(
        B, "ALTER TABLE first_c ADD COLUMN third int; CREATE INDEX third ON first_c (third);", "DROP INDEX third;"
    )
    sources.migrator(database).up()
    assert lines(sources.migrator(database)) == ([], [])
    assert lines(sources.migrator(database, "first")) == ([], ["public.second_b", "public.third_a"])
    connection.execute("ALTER TABLE first_c ADD COLUMN by_hand int; ALTER TABLE third_a ADD COLUMN by_hand int")
    assert lines(sources.migrator(database, "first"))[0] == ["public.first_c.by_hand unexpected"]


def test_ignored_objects_are_left_out_altogether(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    chosen = [sources.source("first")]
    Migrator(database, sources=chosen).up()
    connection.execute('CREATE TABLE legacy_a (id int); CREATE TABLE "legacy_B" (id serial PRIMARY KEY)')
    connection.execute("CREATE SCHEMA old; CREATE TABLE old.t (id int); ALTER TABLE first_c ADD COLUMN by_hand int")
    ignoring = Migrator(database, sources=chosen, ignore=["public.legacy_*", "old.*"])
    assert lines(ignoring, strict=True) == (["public.first_c.by_hand unexpected"], [])
    others = lines(Migrator(database, sources=chosen, ignore=["public.first_c"]))
    assert (others[0], "public.legacy_a" in others[1]) == ([], True)


# Rolling back what another source needs


@pytest.mark.parametrize(
    ("up", "rollback", "sentence"),
    [
        (
            "ALTER TABLE first_c ADD COLUMN third int;",
            "DROP TABLE first_c;",
            "would remove column public.first_c.third",
        ),
        (
            "CREATE TABLE other (id int REFERENCES first_c);",
            "DROP TABLE first_c CASCADE;",
            "would remove constraint public.other",
        ),
        ("CREATE TABLE other (id int REFERENCES first_c);", "DROP TABLE first_c;", "other_id_fkey"),
        ("CREATE VIEW other AS SELECT * FROM first_c;", "DO $$ BEGIN DROP TABLE first_c CASCADE; END $$;", "view"),
    ],
)
def test_a_migration_of_whose_objects_another_source_makes_use_cannot_be_rolled_back(
    database: str, sources: Sources, connection: psycopg.Connection, up: str, rollback: str, sentence: str
) -> None:
    sources.folder("first").write(C, "CREATE TABLE first_c (id int PRIMARY KEY);", rollback)
    sources.folder("third").write(B, up, "SELECT 1;")
    sources.migrator(database).up()
    connection.execute("INSERT INTO first_c (id) VALUES (1)")
    for migrator in (sources.migrator(database, own="first"), sources.migrator(database, "first")):
        other = f"(third:)?{B}"
        with pytest.raises(InvalidRequest, match=f"{C} cannot be rolled back: {other} depends on it") as caught:
            migrator.down(all=True)
        assert sentence in " ".join(caught.value.lines)
    assert connection.execute("SELECT count(*) FROM first_c").fetchone() == (1,)
    assert sources.migrator(database).status().at_head


# Names that two sources want


def test_a_column_that_another_source_has_added_is_refused_with_both_files(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.folder("third").write(
        B, "ALTER TABLE first_c\n  ADD COLUMN note text,\n  ADD owner text;", "ALTER TABLE first_c DROP note;"
    )
    sources.migrator(database).up()
    upgrade = "20260105000000_upgrade"
    sources.folder("first").write(upgrade, 'CREATE TABLE fine ();\nALTER TABLE public."first_c" ADD owner int;')
    with pytest.raises(
        InvalidRequest, match=f"first:{upgrade} adds the column first_c.owner, which {B} of third"
    ) as caught:
        sources.migrator(database).up()
    assert [text.rpartition("/")[2] for text in caught.value.lines] == [
        f"{upgrade}.sql:2 adds it",
        f"{B}.sql has added it",
    ]
    assert "fine" not in tables(connection)
    with pytest.raises(InvalidRequest, match="adds the column"):  # the product need not be configured
        sources.migrator(database, "first").up()


def test_a_table_that_another_source_has_made_is_refused(database: str, sources: Sources) -> None:
    sources.migrator(database).up()
    sources.folder("first").table("20260105000000_upgrade", "third_a")
    with pytest.raises(InvalidRequest, match=f"adds the table third_a, which {A} of third has added"):
        sources.migrator(database).up()


def test_two_sources_that_both_wait_are_refused_before_the_first_runs(
    database: str, sources: Sources, connection: psycopg.Connection
) -> None:
    sources.folder("second").table(A, "third_a")
    with pytest.raises(InvalidRequest, match=f"{A} adds the table third_a, which second:{A} of second has added"):
        sources.migrator(database).up()
    assert tables(connection) == set()


def test_a_name_that_is_free_again_may_be_taken(database: str, sources: Sources) -> None:
    sources.folder("third").write(B, "ALTER TABLE third_a RENAME TO third_z;", "ALTER TABLE third_z RENAME TO third_a;")
    sources.migrator(database).up()
    sources.folder("first").table("20260105000000_upgrade", "third_a")
    assert done(sources.migrator(database).up()) == [("first", "20260105000000_upgrade")]
