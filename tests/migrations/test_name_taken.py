"""`up` stops before its first statement where it would meet an object that no migration made."""

from __future__ import annotations

import psycopg
import pytest

from agent_storage.migrations import Migrator
from agent_storage.migrations.errors import NameTaken
from agent_storage.migrations.files.file import SqlText
from agent_storage.migrations.files.names import steps
from agent_storage.migrations.run.taken import refuse_taken

from .conftest import Command, Folder

A, B, C = "20260101000000_a", "20260102000000_b", "20260103000000_c"

#: What a product has in its schema, and the object that the shipped migrations would meet.
THEIRS = {
    "a table": ("CREATE TABLE sessions (id int); INSERT INTO sessions VALUES (7)", "table public.sessions"),
    "a view": ("CREATE VIEW tasks AS SELECT 1 AS id", "table public.tasks"),
    "a type": ("CREATE TYPE messages AS ENUM ('a')", "table public.messages"),
    "a composite type": ("CREATE TYPE projects AS (a int)", "table public.projects"),
    "a domain": ("CREATE DOMAIN boards AS int", "table public.boards"),
    "a sequence": ("CREATE SEQUENCE workflows", "table public.workflows"),
    "an index": (
        "CREATE TABLE t (id int); CREATE INDEX tasks_session_id_idx ON t (id)",
        "index public.tasks_session_id_idx",
    ),
    "a function that would be replaced": (
        "CREATE FUNCTION jsonb_merge(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT a || b'",
        "function public.jsonb_merge",
    ),
    "a function of a DO block": (
        "CREATE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'",
        "function public.uuid_v7",
    ),
}


@pytest.mark.parametrize("theirs, found", THEIRS.values(), ids=THEIRS)
def test_up_names_what_is_in_its_way_and_leaves_the_database_as_it_was(
    database: str, connection: psycopg.Connection, theirs: str, found: str
) -> None:
    connection.execute(theirs.encode())
    before = _objects(connection)
    with pytest.raises(NameTaken, match=f"{found} exists, and no migration made it; nothing was applied") as caught:
        Migrator(database).up()
    assert "STORAGE_SCHEMA" in (caught.value.hint or "")
    assert _objects(connection) == before, "not even the tracking tables"
    Migrator(database, schema="agent").up()
    assert Migrator(database, schema="agent").status().at_head


def _objects(connection: psycopg.Connection) -> list[tuple[str, ...]]:
    return connection.execute(
        "SELECT 'class', relname::text, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT 'proc', proname::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT 'namespace', nspname::text, '' FROM pg_namespace ORDER BY 1, 2, 3"
    ).fetchall()


def test_the_command_exits_1_and_says_schema(migrate: Command, folder: Folder, connection: psycopg.Connection) -> None:
    folder.table(A, "a")
    folder.table(B, "b")
    connection.execute("CREATE TABLE b (id int)")
    ended = migrate("up")
    assert ended.returncode == 1
    assert "table public.b exists, and no migration made it; nothing was applied" in ended.stderr
    assert f"{B}.sql:1 creates table b" in ended.stderr
    assert "hint: put these tables into another schema (STORAGE_SCHEMA" in ended.stderr
    assert migrate("up", "--dry-run").returncode == 1
    assert connection.execute("SELECT to_regclass('a'), to_regclass('_yoyo_migration')").fetchone() == (None, None)


#: Pending migrations that meet nothing: their objects are made by migrations, or are out of the way in time.
FREE = {
    "made by an applied migration": ("CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2';", ""),
    "dropped before": (
        "-- data-loss: ok\nDROP TABLE IF EXISTS theirs CASCADE; CREATE TABLE theirs (id int);",
        "CREATE TABLE theirs ()",
    ),
    "an index of a table that is dropped": (
        "-- data-loss: ok\nDROP TABLE theirs; CREATE TABLE theirs (id int); CREATE INDEX i ON theirs (id);",
        "CREATE TABLE theirs (x int); CREATE INDEX i ON theirs (x)",
    ),
    "renamed before": ("ALTER TABLE theirs RENAME TO old; CREATE TABLE theirs (id int);", "CREATE TABLE theirs ()"),
    "guarded": ("CREATE TABLE IF NOT EXISTS theirs (id int);", "CREATE TABLE theirs ()"),
    "temporary": ("CREATE TEMPORARY TABLE theirs (id int);", "CREATE TABLE theirs ()"),
    "in another schema": ("CREATE SCHEMA s; CREATE TABLE s.theirs (id int);", "CREATE TABLE theirs ()"),
    "an index without a name": ("CREATE INDEX ON a (id);", "CREATE INDEX a_id_idx ON a (id)"),
    "another number of arguments": (
        "CREATE FUNCTION g(a int, b text DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT 1';",
        "CREATE FUNCTION g(numeric(8, 2)) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    "only in a comment": ("-- CREATE TABLE theirs\nSELECT 1;", "CREATE TABLE theirs ()"),
}


@pytest.mark.parametrize("pending, theirs", FREE.values(), ids=FREE)
def test_what_does_not_clash_is_applied(
    database: str, folder: Folder, connection: psycopg.Connection, pending: str, theirs: str
) -> None:
    folder.write(A, "CREATE TABLE a (id int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';")
    Migrator(database, folder.path).up()
    connection.execute(theirs.encode() or b"SELECT 1")
    folder.write(B, pending)
    assert [done.id for done in Migrator(database, folder.path).up().done] == [B]


def test_what_a_rollback_left_is_still_the_migrations_own(database: str, folder: Folder) -> None:
    folder.write(A, "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';", "SELECT 1;")
    migrator = Migrator(database, folder.path)
    migrator.up()
    migrator.down()
    assert migrator.up().changed
    assert migrator.redo().changed


def test_what_another_migrator_applies_meanwhile_is_no_clash(database: str, folder: Folder) -> None:
    """The pending files are read without the lock, and the objects after that."""
    folder.table(A, "a")
    folder.write(B, "CREATE TYPE b AS ENUM ('x'); CREATE VIEW v AS SELECT 1 AS x; CREATE INDEX i ON a (id);")
    migrator = Migrator(database, folder.path)
    with migrator.session() as session:
        schema, before = migrator.tracking(session).schema, migrator.timelines(session)
        assert [file.id for file in before.pending] == [A, B]
        Migrator(database, folder.path).up()
        refuse_taken(session, schema, before)


def test_quoted_and_qualified_names_are_read_as_the_server_reads_them(
    database: str, folder: Folder, connection: psycopg.Connection
) -> None:
    connection.execute('CREATE SCHEMA s; CREATE TABLE s."Odd ""Name" (); CREATE TABLE lower ()')
    folder.write(A, 'CREATE TABLE s."Odd ""Name" ();')
    with pytest.raises(NameTaken, match=r'table s\.Odd "Name exists'):
        Migrator(database, folder.path).up()
    folder.write(A, "CREATE UNLOGGED TABLE LOWER ();")
    with pytest.raises(NameTaken, match=r"table public\.lower exists"):
        Migrator(database, folder.path).up()
    folder.write(A, 'CREATE TABLE "LOWER" ();')
    assert Migrator(database, folder.path).up().changed


def test_the_shipped_migrations_create_and_drop_what_the_parser_says(database: str) -> None:
    """The names that are read from the files are those that the database has at the end."""
    migrator = Migrator(database)
    migrator.up()
    made: set[str] = set()
    for file in migrator.files():
        for step in steps(file.up):
            (made.add if step.made else made.discard)(step.name.name)
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT relname::text FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
            " AND relname !~ '^(_yoyo|yoyo_lock|_storage)'"
            " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)"
            " UNION SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
        present = {name for (name,) in rows}
    assert {name for name in present - made if not name.endswith(("_pkey", "_key"))} == set()


def test_a_statement_that_sets_the_search_path_ends_the_reading() -> None:
    text = "CREATE TABLE a (); SET LOCAL search_path = b; CREATE TABLE c ();"
    assert [step.name.name for step in steps(SqlText(text))] == ["a"]
