"""`new --draft`: both directions drafted and proved, and nothing left out in silence."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from agent_storage.migrations.commands.draft import draft
from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files.author import new
from agent_storage.migrations.migrator import Migrator
from agent_storage.migrations.verify.drift import diff
from agent_storage.migrations.verify.shadow import ShadowServer
from agent_storage.sources import Source

from .conftest import Command, Folder

A = "20260101000000_a"
BEFORE = "CREATE TABLE a (id int PRIMARY KEY, x int, gone text);"

CHANGES = {
    "a column": "CREATE TABLE a (id int PRIMARY KEY, x int, gone text, y text NOT NULL DEFAULT '');",
    "a type": "CREATE TABLE a (id int PRIMARY KEY, x bigint, gone text);",
    "a table with a foreign key": f"{BEFORE} CREATE TABLE b (a_id int REFERENCES a ON DELETE CASCADE);",
    "an index and a comment": f"{BEFORE} CREATE INDEX a_x ON a (x) WHERE x > 0; COMMENT ON COLUMN a.x IS 'y';",
    "a trigger": f"""{BEFORE}
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END; $$;
        CREATE TRIGGER t BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION f();""",
    "storage options and row security": f"""{BEFORE}
        ALTER TABLE a SET (fillfactor = 80); ALTER TABLE a ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON a USING (x > 0);""",
}


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    path = tmp_path / "tables" / "a" / "schema.sql"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_drafted_and_proved_in_both_directions(
    change: str, database: str, server_conninfo: str, folder: Folder, declared: Path
) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text(CHANGES[change])
    found = draft(Migrator(database, folder.path), ShadowServer(server_conninfo, like=None), declared.parent.parent)
    assert found.complete, (found.up.missing, found.down.missing)


def test_the_drafted_files_run(migrate: Command, folder: Folder, declared: Path) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text(CHANGES["a column"])
    made = migrate("new", "add y", "--draft", "--tables", str(declared.parent.parent))
    assert made.returncode == 0, made.stderr
    assert migrate("up").returncode == 0
    assert migrate("check", "--only", "test").returncode == 0
    assert migrate("diff", "db", "schema", "--tables", str(declared.parent.parent)).returncode == 0


def test_what_throws_data_away_is_left_to_you_and_exit_7(migrate: Command, folder: Folder, declared: Path) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text("CREATE TABLE a (id int PRIMARY KEY, x int);")
    made = migrate("new", "drop gone", "--draft", "--tables", str(declared.parent.parent))
    assert made.returncode == 7
    text = Path(made.stdout.splitlines()[0]).read_text()
    assert "-- TODO this discards data" in text
    assert "-- ALTER TABLE a DROP COLUMN IF EXISTS gone;" in text


def test_a_narrowed_type_is_left_to_you_too(migrate: Command, folder: Folder, declared: Path) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text(BEFORE.replace("x int", "x smallint"))
    made = migrate("new", "narrow x", "--draft", "--tables", str(declared.parent.parent))
    assert made.returncode == 7
    up, down = (Path(path).read_text() for path in made.stdout.splitlines())
    assert "-- TODO this discards data" in up
    assert "\n-- ALTER TABLE a ALTER COLUMN x TYPE smallint" in up
    assert "\nALTER TABLE a ALTER COLUMN x TYPE integer" in down


def test_what_cannot_be_drafted_is_a_todo_and_exit_7(migrate: Command, folder: Folder, declared: Path) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text(f"{BEFORE} CREATE OPERATOR FAMILY f USING btree;")
    made = migrate("new", "family", "--draft", "--tables", str(declared.parent.parent))
    assert made.returncode == 7
    assert "look for TODO" in made.stderr
    up, _ = (Path(path).read_text() for path in made.stdout.splitlines())
    assert "-- TODO unmodelled operator family public.f USING btree" in up


def test_a_rename_is_a_guess_and_says_so(migrate: Command, folder: Folder, declared: Path) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text("CREATE TABLE a (id int PRIMARY KEY, x int, kept text);")
    made = migrate("new", "rename", "--draft", "--tables", str(declared.parent.parent))
    assert made.returncode == 7
    text = Path(made.stdout.splitlines()[0]).read_text()
    assert "-- TODO this is a guess" in text
    assert "\nALTER TABLE a RENAME COLUMN gone TO kept;" in text


def test_the_first_migration_can_be_drafted_from_nothing(
    migrate: Command, folder: Folder, declared: Path, connection: psycopg.Connection
) -> None:
    declared.write_text(BEFORE)
    made = migrate("new", "first", "--draft", "--tables", str(declared.parent.parent))
    assert made.returncode == 0, made.stderr
    assert migrate("up").returncode == 0
    assert migrate("down", "--yes").returncode == 0


def test_there_must_be_something_to_draft(database: str, server_conninfo: str, folder: Folder, declared: Path) -> None:
    folder.write(A, BEFORE, "DROP TABLE a;")
    declared.write_text(BEFORE)
    with pytest.raises(InvalidRequest, match="already create the declared schema"):
        draft(Migrator(database, folder.path), ShadowServer(server_conninfo, like=None), declared.parent.parent)


def test_a_draft_names_no_schema_but_keeps_strings_and_other_schemas(tmp_path: Path, server_conninfo: str) -> None:
    folder, tables = tmp_path / "migrations", tmp_path / "tables" / "a"
    folder.mkdir()
    tables.mkdir(parents=True)
    declared = """
        CREATE TABLE a (id int PRIMARY KEY, public text, note text DEFAULT 'public.x');
        CREATE INDEX a_note_idx ON a (note);
        CREATE FUNCTION f(of a) RETURNS text LANGUAGE sql AS 'SELECT (of).note';
        COMMENT ON COLUMN a.public IS 'public.a, and "public".b';
    """
    (tables / "schema.sql").write_text(declared)
    shadows = ShadowServer(server_conninfo, like=None, schema="My Schema")
    migrator = Migrator("", sources=[Source("x", tmp_path / "tables", folder)])
    found = draft(migrator, shadows, None)
    text = found.up.text(guard=True)
    assert found.complete, text
    assert "My Schema" not in text
    assert "'public.a, and \"public\".b'" in text
    assert "'public.x'" in text
    assert "COMMENT ON COLUMN a.public IS" in text
    new(folder, "a", up=text, down=found.down.text(guard=False))
    for schema in (None, "My Schema", "other"):
        server = ShadowServer(server_conninfo, like=None, schema=schema)
        assert diff(migrator, server, "migrations", "schema").drift == []
