"""docs/tables.md lists the invariants of each table. Each is attacked, and no rule of the schema is missing there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent_storage.tables import REPOSITORIES

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| `(?P<table>\w+)` \| .+? \| (?P<kind>[a-z ]+) `(?P<name>[\w.]+)` \| `(?P<attempt>.+)` \|$", re.MULTILINE
)
ROWS = [found.groupdict() for found in ROW.finditer((ROOT / "docs" / "tables.md").read_text("utf-8"))]
SQL_ROWS = [row for row in ROWS if "::" not in row["attempt"].split(" ")[0]]
TESTED_ROWS = [row for row in ROWS if row not in SQL_ROWS]

#: The SQLSTATEs of a refusal: a constraint is violated (class 23), or a rule of a trigger. A trigger may report both.
REFUSED = {"constraint": "23", "foreign key": "23", "unique index": "23", "trigger": ("23", "AS001")}

#: Without choices and lengths, which docs/schema.md lists.
CHECKS = """
    SELECT conname AS name, conrelid::regclass::text AS "table", pg_get_constraintdef(oid) AS definition
      FROM pg_constraint
     WHERE contype IN ('c', 'u', 'x') AND connamespace = 'public'::regnamespace
       AND pg_get_constraintdef(oid) !~ '(char_length|octet_length|= ANY \\(ARRAY\\[)'
"""
TRIGGERS = """
    SELECT tgname AS name, tgrelid::regclass::text AS "table", pg_get_triggerdef(t.oid) AS definition
      FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
     WHERE NOT tgisinternal AND p.prosrc ~ 'AS001'
"""


@pytest.mark.parametrize("row", SQL_ROWS, ids=lambda row: f"{row['table']}-{row['name']}")
def test_an_attempt_to_break_an_invariant_is_refused(seeded_database: str, row: dict[str, Any]) -> None:
    with psycopg.connect(seeded_database) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(row["attempt"].encode())
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        connection.rollback()
    refused = caught.value
    assert (refused.sqlstate or "").startswith(REFUSED[row["kind"]]), refused
    if row["kind"] in ("constraint", "foreign key", "unique index"):
        assert refused.diag.constraint_name == row["name"]


@pytest.mark.parametrize("row", TESTED_ROWS, ids=lambda row: f"{row['table']}-{row['name']}")
def test_an_invariant_that_one_statement_cannot_break_names_its_test(row: dict[str, Any]) -> None:
    if row["kind"] == "statement":
        table, method = row["name"].split(".")
        assert callable(getattr(REPOSITORIES[table], method))
    path, test = row["attempt"].split("::")
    assert re.search(rf"def {test}\b", (ROOT / path).read_text("utf-8"))


@pytest.mark.parametrize("query", [CHECKS, TRIGGERS], ids=["constraints", "triggers"])
def test_every_rule_of_the_schema_is_listed(seeded_database: str, query: str) -> None:
    listed = {(row["table"], row["name"]) for row in ROWS}
    with psycopg.connect(seeded_database) as connection:
        rules = {(table, name) for name, table, _ in connection.execute(query.encode()) if table in REPOSITORIES}
    assert rules - listed == set()


def test_every_named_trigger_exists(seeded_database: str) -> None:
    named = {row["name"] for row in ROWS if row["kind"] == "trigger"}
    with psycopg.connect(seeded_database) as connection:
        found = connection.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
        assert named - {name for (name,) in found} == set()
