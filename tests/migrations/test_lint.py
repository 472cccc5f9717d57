"""The rules for migration files that `up` does not already show in test_misuse."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from agent_storage.cli import app
from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import VERSIONS, read_folder
from agent_storage.migrations.files.lint import lint_file, lint_folder
from agent_storage.migrations.verify import squawk

from .conftest import Command, Folder

A, B = "20260101000000_a", "20260102000000_b"

RULES = {
    "if-not-exists-concurrently": (
        "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (x);",
        ("error", 2),
    ),
    "needs-no-transaction": ("SELECT 1;\nVACUUM t;", ("error", 2)),
    "set-without-local": ("SET LOCAL a = 1;\nSET search_path = x;", ("warning", 2)),
    "data-loss": ("ALTER TABLE t DROP CONSTRAINT c;\nTRUNCATE t;", ("error", 2)),
    "new-enum-value": ("ALTER TYPE mood ADD VALUE 'new';\nUPDATE t SET m = 'new';", ("error", 2)),
    "psql-command": ("SELECT 1;\nCOPY t (x) FROM STDIN;", ("error", 2)),
    "rename": ("ALTER TABLE t RENAME CONSTRAINT a TO b;\nALTER TABLE t RENAME x TO y;", ("warning", 2)),
    "empty": ("-- nothing\n", ("error", 1)),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_the_place(rule: str, folder: Folder) -> None:
    text, expected = RULES[rule]
    folder.write(A, text)
    found = [(one.severity, one.line) for one in lint_file(read_folder(folder.path)[0]) if one.rule == rule]
    assert found == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE t ALTER x DROP NOT NULL; ALTER TABLE t ALTER x DROP DEFAULT; DROP INDEX i; DROP VIEW v;",
        "-- transactional: false\nALTER TYPE mood ADD VALUE 'new'; UPDATE t SET m = 'new';",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v;",
        "DELETE FROM t WHERE false; SET CONSTRAINTS ALL IMMEDIATE;",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE t; COMMIT; END $$;",
        "-- squawk-ignore ban-drop-table\n-- Note: words\nSELECT 1;",
    ],
)
def test_what_is_in_order_is_left_alone(text: str, folder: Folder) -> None:
    folder.write(A, text)
    assert lint_file(read_folder(folder.path)[0]) == []


def test_a_rollback_may_throw_data_away_but_not_control_transactions(folder: Folder) -> None:
    folder.write(A, "CREATE TABLE a ();", "DROP TABLE a;\nCOMMIT;")
    (found,) = lint_file(read_folder(folder.path)[0])
    assert (found.rule, found.line) == ("transaction-control", 2)
    assert found.path.endswith(".rollback.sql")


def test_a_file_that_the_lock_does_not_know_must_be_the_newest(folder: Folder) -> None:
    folder.table(B, "b")
    lockfile.write(folder.path, read_folder(folder.path))
    folder.table(A, "a")
    found = lint_folder(folder.path, read_folder(folder.path))
    assert [one.rule for one in found] == ["not-newest", "lock"]
    folder.table("20990101000000_c", "c")
    assert any(one.severity == "warning" for one in lint_folder(folder.path, read_folder(folder.path)))


@pytest.mark.skipif(squawk.find() is None, reason="squawk is not installed")
def test_squawk_joins_in_with_lines_that_count_from_one(migrate: Command, folder: Folder) -> None:
    folder.write(A, "-- first\n\nALTER TABLE a ADD COLUMN b int NOT NULL;")
    program = squawk.find()
    assert program is not None
    found = [one for one in squawk.lint(program, read_folder(folder.path)) if "adding-required" in one.rule]
    assert [(one.line, one.severity) for one in found] == [(3, "warning")]
    folder.write(A, "-- first\n\n-- squawk-ignore adding-required-field\nALTER TABLE a ADD COLUMN b int NOT NULL;")
    assert not [one for one in squawk.lint(program, read_folder(folder.path)) if "adding-required" in one.rule]


def test_the_packages_own_migrations_keep_every_rule_and_their_lock() -> None:
    found = [str(one) for one in lint_folder(VERSIONS, read_folder(VERSIONS))]
    # The vocabulary was made one before the first release: nothing that runs uses the old names.
    assert [one for one in found if "one_vocabulary" not in one or "[rename]" not in one] == []
    assert lockfile.read(VERSIONS)


def lint(folder: Folder, *options: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["migrate", "check", "--only", "lint", "--folder", str(folder.path), *options])
    return ended.exit_code, ended.stdout


def test_the_command_ends_with_7_for_errors_and_strictly_for_warnings(folder: Folder) -> None:
    folder.write(A, "ALTER TABLE t RENAME x TO y;")
    assert lint(folder)[0] == 0
    assert lint(folder, "--strict")[0] == 7
    folder.write(A, "TRUNCATE t;")
    code, out = lint(folder, "--json")
    assert code == 7
    assert "error [data-loss]" in json.loads(out)["parts"][0]["lines"][0]


def test_the_lock_can_be_written_again(folder: Folder) -> None:
    folder.table(A, "a")
    lockfile.write(folder.path, read_folder(folder.path))
    folder.table(A, "other")
    assert lint(folder)[0] == 7
    assert lint(folder, "--fix-lock")[0] == 0
