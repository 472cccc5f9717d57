"""The snapshot and the comparison: what they are independent of, what they never keep silent about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from agent_storage.catalog import Catalog, Difference, Entry, Property, compare, snapshot

from .test_catalog_schema import fresh, load, roles  # noqa: F401

ORDERS = """
    CREATE TABLE orders (
        id    serial PRIMARY KEY,
        code  text UNIQUE,
        total numeric NOT NULL CHECK (total > 0),
        other integer REFERENCES orders (id)
    );
    CREATE INDEX ON orders (total);
"""


def both(expected: str, actual: str, connection: psycopg.Connection) -> list[Difference]:
    """What is found when one script made the expected database and another one the actual."""
    catalogs: list[Catalog] = []
    for script in (expected, actual):
        with connection.transaction(force_rollback=True):
            connection.execute(script.encode())
            catalogs.append(snapshot(connection))
    return compare(*catalogs)


def told(differences: list[Difference]) -> list[tuple[str, str, str, str | None, str | None]]:
    return [(f.kind, f.object, f.property, f.expected, f.actual) for f in differences]


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def rich(database: str) -> str:
    load(database)
    return database


# The connection


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_snapshot_leaves_the_connection_as_it_was(database: str, autocommit: bool) -> None:
    with psycopg.connect(database, autocommit=autocommit) as connection:
        connection.execute("SET search_path TO pg_catalog, public")
        connection.commit()
        snapshot(connection)
        assert connection.info.transaction_status is TransactionStatus.IDLE
        assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog, public",)
        assert (
            connection.execute("SHOW jit").fetchone()
            == connection.execute("SELECT boot_val FROM pg_settings WHERE name = 'jit'").fetchone()
        )
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_a_snapshot_inside_a_transaction_sees_its_changes_and_keeps_it_open(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE inside (id integer)")
        assert "table public.inside" in snapshot(connection).by_key
        connection.execute("INSERT INTO inside VALUES (1)")
        connection.rollback()
        assert "table public.inside" not in snapshot(connection).by_key


def test_a_role_without_privileges_can_take_a_snapshot(rich: str) -> None:
    with psycopg.connect(rich, autocommit=True) as connection:
        expected = snapshot(connection)
        connection.execute("SET ROLE catalog_reader")
        assert snapshot(connection) == expected


def test_two_snapshots_are_the_same_text_and_survive_json(rich: str) -> None:
    with psycopg.connect(rich, autocommit=True) as connection:
        first, second = snapshot(connection), snapshot(connection)
    assert first.to_json() == second.to_json()
    again = Catalog.from_json(first.to_json())
    assert again == first
    assert again.entries == first.entries
    assert again.unmodelled == first.unmodelled
    assert again.server_version == first.server_version


# What belongs to the schema


def test_only_the_named_schemas_are_read(rich: str) -> None:
    with psycopg.connect(rich, autocommit=True) as connection:
        catalog = snapshot(connection, schemas=["public"])
    assert [entry.key for entry in catalog.entries if entry.kind in ("schema", "table", "extension")] == [
        "schema public",
        'table public."Odd Name"',
    ]
    assert catalog.unmodelled == []


def test_bookkeeping_and_temporary_tables_are_no_part_of_the_schema(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        before = snapshot(connection)
        for name in ("_yoyo_migration", "_yoyo_log", "_yoyo_version", "yoyo_lock", "_storage_migration", "_storage_x"):
            connection.execute(
                f"CREATE TABLE {name} (id serial PRIMARY KEY, at date DEFAULT now() CHECK (at > '-infinity'))"
            )
            connection.execute(f"CREATE INDEX ON {name} (at); COMMENT ON COLUMN {name}.at IS 'when'")
            connection.execute(f"CREATE STATISTICS {name}_s ON id, at FROM {name}; GRANT SELECT ON {name} TO PUBLIC")
        connection.execute("CREATE TEMPORARY TABLE passing (id serial PRIMARY KEY)")
        assert snapshot(connection) == before
        connection.execute("CREATE TABLE yoyo_locks (id integer)")
        assert "table public.yoyo_locks" in snapshot(connection).by_key


def installable(connection: psycopg.Connection) -> list[str]:
    """The versions of some extension with members, oldest first."""
    rows = connection.execute(
        "SELECT name, array_agg(version ORDER BY string_to_array(version, '.')::int[])"
        "  FROM pg_available_extension_versions"
        " WHERE name IN ('citext', 'vector', 'hstore') AND requires IS NULL"
        " GROUP BY name ORDER BY name LIMIT 1"
    ).fetchall()
    return [rows[0][0], *rows[0][1]] if rows else pytest.skip("no extension to install")


def test_an_extension_is_one_object_and_its_members_are_its_own(connection: psycopg.Connection) -> None:
    name, *_ = installable(connection)
    before = snapshot(connection)
    found = both("SELECT 1", f"CREATE EXTENSION {name}", connection)
    assert [(f.kind, f.object, f.property) for f in found] == [("extension", name, "unexpected")]
    assert snapshot(connection) == before


def test_the_version_of_an_extension_counts_and_is_updated(connection: psycopg.Connection) -> None:
    name, *versions = installable(connection)
    newest = connection.execute(
        "SELECT default_version FROM pg_available_extensions WHERE name = %s", [name]
    ).fetchone()
    assert newest
    old = next((v for v in versions if v != newest[0] and _installs(connection, name, v)), None)
    if old is None:
        pytest.skip(f"only one version of {name} can be installed")
    found = both(f"CREATE EXTENSION {name}", f"CREATE EXTENSION {name} VERSION '{old}'", connection)
    assert told(found) == [("extension", name, "version", newest[0], old)]
    assert found[0].sql == f"ALTER EXTENSION {name} UPDATE TO '{newest[0]}';"


def _installs(connection: psycopg.Connection, name: str, version: str) -> bool:
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(f"CREATE EXTENSION {name} VERSION '{version}'".encode())
    except psycopg.errors.Error:
        return False
    return True


def test_what_is_not_modelled_is_named_and_its_difference_is_drift(connection: psycopg.Connection) -> None:
    make = """
        CREATE FOREIGN DATA WRAPPER wrapper;
        CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper;
        CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (password 'secret');
        CREATE OPERATOR FAMILY public.family USING btree;
        CREATE TYPE public.shell;
        CREATE CONVERSION public.odd FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
    """
    found = both(
        "CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapper", make, connection
    )
    assert told(found) == [
        ("unmodelled", "conversion public.odd", "unexpected", None, "present"),
        ("unmodelled", "operator family public.family USING btree", "unexpected", None, "present"),
        ("unmodelled", "type public.shell", "unexpected", None, "present"),
        ("unmodelled", "user mapping public on server elsewhere", "unexpected", None, "present"),
    ]
    assert {difference.severity for difference in found} == {"drift"}
    with connection.transaction(force_rollback=True):
        connection.execute(make.encode())
        catalog = snapshot(connection)
    assert "foreign-data wrapper wrapper" in catalog.unmodelled
    assert "secret" not in catalog.to_json()


# What is always told


@pytest.mark.parametrize(
    ("script", "object_", "property_", "repair"),
    [
        (
            (
                "CREATE TABLE t (a integer); CREATE INDEX i ON t (a);"
                " UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass"
            ),
            "public.i",
            ("valid", "valid", "INVALID"),
            "REINDEX INDEX public.i;",
        ),
        (
            "CREATE TABLE t (a integer); ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID",
            "public.t.c",
            ("valid", "valid", "NOT VALID"),
            "ALTER TABLE public.t VALIDATE CONSTRAINT c;",
        ),
        (
            (
                "CREATE TABLE t (a integer); CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW"
                " EXECUTE FUNCTION suppress_redundant_updates_trigger(); ALTER TABLE t DISABLE TRIGGER g"
            ),
            "public.t.g",
            ("enabled", "enabled", "disabled"),
            "ALTER TABLE public.t ENABLE TRIGGER g;",
        ),
    ],
)
def test_what_is_wrong_is_told_though_both_sides_agree(
    connection: psycopg.Connection, script: str, object_: str, property_: tuple[str, str, str], repair: str
) -> None:
    (difference,) = both(script, script, connection)
    assert (difference.object, difference.property, difference.expected, difference.actual) == (object_, *property_)
    assert (difference.severity, difference.sql, difference.table) == ("info", repair, "public.t")


@pytest.fixture(scope="module")
def everything(server_conninfo: str, roles: None) -> Catalog:  # noqa: F811
    """A catalog with something of everything."""
    with fresh(server_conninfo) as conninfo:
        load(conninfo)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            return snapshot(connection)


def without(catalog: Catalog, entry: Entry) -> Catalog:
    return replace(catalog, entries=tuple(other for other in catalog.entries if other is not entry))


def changed(catalog: Catalog, entry: Entry, name: str) -> Catalog:
    other = replace(entry, properties={**entry.properties, name: Property("something else")})
    return replace(catalog, entries=tuple(other if one is entry else one for one in catalog.entries))


def test_no_change_of_any_property_goes_by_in_silence(everything: Catalog) -> None:
    common = set(compare(everything, everything))
    silent = [
        (entry.key, name)
        for entry in everything.entries
        for name in entry.properties
        if not set(compare(everything, changed(everything, entry, name))) - common
    ]
    assert silent == []


def test_no_object_that_comes_or_goes_does_so_in_silence(everything: Catalog) -> None:
    common = set(compare(everything, everything))
    silent = [
        entry.key
        for entry in everything.entries
        # A column of a view stands in the view's definition.
        if not (entry.kind == "column" and entry.create is None)
        and not (
            set(compare(everything, without(everything, entry))) - common
            and set(compare(without(everything, entry), everything)) - common
        )
    ]
    assert silent == []


def test_equal_catalogs_are_those_without_drift(everything: Catalog) -> None:
    for entry in everything.entries:
        for other in (without(everything, entry), changed(everything, entry, "comment")):
            drift = [difference for difference in compare(everything, other) if difference.severity == "drift"]
            assert (other == everything) == (not drift) or entry.create is None, entry.key


# Renames


def test_a_renamed_table_is_renamed_back_and_its_stale_names_are_one_finding(connection: psycopg.Connection) -> None:
    found = both(ORDERS.replace("orders", "purchases"), f"{ORDERS}; ALTER TABLE orders RENAME TO purchases", connection)
    assert [(f.kind, f.object, f.property) for f in found] == [("table", "public.purchases", "stale names")]
    assert found[0].actual is not None
    assert "orders_id_seq" in found[0].actual
    assert "orders_total_check" in found[0].actual
    assert "ALTER SEQUENCE public.orders_id_seq RENAME TO purchases_id_seq;" in (found[0].sql or "")
    assert (found[0].severity, found[0].table) == ("drift", "public.purchases")

    found = both(ORDERS, ORDERS.replace("orders", "purchases"), connection)
    assert told(found)[0] == ("table", "public.orders", "name", "orders", "purchases")
    assert [f.property for f in found] == ["name", "stale names"]


def test_a_renamed_column_and_the_names_made_of_it_are_two_findings(connection: psycopg.Connection) -> None:
    found = both(ORDERS, ORDERS.replace("total", "amount"), connection)
    assert [(f.object, f.property) for f in found] == [
        ("public.orders.total", "name"),
        ("public.orders", "stale names"),
    ]
    with connection.transaction(force_rollback=True):
        connection.execute(ORDERS.encode())
        expected = snapshot(connection)
    with connection.transaction(force_rollback=True):
        connection.execute(ORDERS.replace("total", "amount").encode())
        for difference in found:
            connection.execute((difference.sql or "").encode())
        assert snapshot(connection) == expected


def test_a_dropped_and_an_added_column_are_no_rename(connection: psycopg.Connection) -> None:
    actual = "CREATE TABLE t (a integer, gone text, b integer); ALTER TABLE t DROP COLUMN gone, ADD COLUMN new text"
    found = both("CREATE TABLE t (a integer, c text, b integer)", actual, connection)
    assert [(f.object, f.property) for f in found if f.severity == "drift"] == [
        ("public.t.c", "missing"),
        ("public.t.new", "unexpected"),
    ]


def test_two_tables_that_look_alike_are_not_taken_for_renamed(connection: psycopg.Connection) -> None:
    found = both(
        "CREATE TABLE a (id integer); CREATE TABLE b (id integer)",
        "CREATE TABLE c (id integer); CREATE TABLE d (id integer)",
        connection,
    )
    assert sorted((f.object, f.property) for f in found) == [
        ("public.a", "missing"),
        ("public.b", "missing"),
        ("public.c", "unexpected"),
        ("public.d", "unexpected"),
    ]


# Severity and loss


def test_owners_are_information_told_once(connection: psycopg.Connection) -> None:
    make = "CREATE TABLE a (id integer); CREATE TABLE b (id integer); CREATE VIEW c AS SELECT 1 AS x;"
    owned = f"{make} ALTER TABLE a OWNER TO catalog_reader; ALTER TABLE b OWNER TO catalog_reader"
    (difference,) = both(make, owned, connection)
    assert (difference.property, difference.actual, difference.severity) == ("owner", "catalog_reader", "info")
    assert (difference.sql or "").count("OWNER TO") == 2


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("smallint", "integer"),
        ("varchar(5)", "varchar(9)"),
        ("varchar(5)", "text"),
        ("numeric(5,2)", "numeric(7,2)"),
        ("numeric(5,1)", "numeric(6,2)"),
        ("date", "timestamptz"),
        ("json", "text"),
        ("real", "double precision"),
        ("timestamptz(3)", "timestamptz"),
    ],
)
def test_a_narrowing_stands_behind_a_warning_and_a_widening_does_not(
    connection: psycopg.Connection, expected: str, actual: str
) -> None:
    narrow, wide = (f"CREATE TABLE t (a {type_})" for type_ in (expected, actual))
    (narrowing,) = both(narrow, wide, connection)
    assert (narrowing.object, narrowing.property, narrowing.table) == ("public.t.a", "type", "public.t")
    assert (narrowing.sql or "").startswith("-- data loss: ALTER TABLE public.t ALTER COLUMN a TYPE ")
    if expected != "date":
        (widening,) = both(wide, narrow, connection)
        assert (widening.sql or "").startswith("ALTER TABLE public.t ALTER COLUMN a TYPE ")


def test_what_would_be_lost_is_offered_behind_a_warning(connection: psycopg.Connection) -> None:
    found = both("CREATE TABLE t (a integer)", "CREATE TABLE t (a integer, b integer); CREATE TABLE u ()", connection)
    assert [difference.sql for difference in found] == [
        "-- data loss: ALTER TABLE public.t DROP COLUMN IF EXISTS b;",
        "-- data loss: DROP TABLE IF EXISTS public.u;",
    ] or [difference.sql for difference in found] == [
        "-- data loss: DROP TABLE IF EXISTS public.u;",
        "-- data loss: ALTER TABLE public.t DROP COLUMN IF EXISTS b;",
    ]


@pytest.mark.parametrize(("text", "drifts"), [("SELECT large.id", False), ("SELECT large.total", True)])
def test_a_view_that_another_version_writes_differently_is_no_drift(
    everything: Catalog, text: str, drifts: bool
) -> None:
    view = everything.by_key["view app.large_orders"]

    def written(definition: str, version: int) -> Catalog:
        entry = replace(view, properties={"definition": Property(f"{definition} FROM app.large")})
        return replace(everything, entries=(entry,), server_version=version)

    found = compare(written("SELECT id", 180000), written(text, 150000))
    assert [f.property for f in found if f.severity == "drift"] == (["definition"] if drifts else [])


def test_another_major_version_is_information(everything: Catalog) -> None:
    older = replace(everything, server_version=130000)
    (difference,) = [f for f in compare(everything, older) if f.property == "major version"]
    assert (difference.severity, difference.actual) == ("info", "13")
