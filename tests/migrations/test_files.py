"""The splitter against PostgreSQL's own parser, and the checksum that is made of its tokens."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import SqlText, duration_ms, read_folder
from agent_storage.migrations.files.splitter import split, tokens

from .conftest import Folder

CASES = {
    "quotes": (r"SELECT 'a;''b'; SELECT 'a\';", 2),
    "escape strings": (r"SELECT E'a\';b', e'\\'; SELECT 1;", 2),
    "quoted names": ('SELECT 1 AS "a;""b"; SELECT 2;', 2),
    "dollar quotes": ("SELECT $$;$$, $a$ $$;$b$ $a$; SELECT 1;", 2),
    "dollar signs in names": ("CREATE TABLE a$b$c (x$1 int); SELECT x$1 FROM a$b$c;", 2),
    "nested comments": ("SELECT /* a /* ; */ ; */ 1; -- ;\nSELECT 2;", 2),
    "a comment at the end": ("SELECT 1 -- no semicolon", 1),
    "begin atomic": (
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC"
            " SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3;"
        ),
        2,
    ),
    "columns named begin": ("CREATE TABLE t (begin int, atomic int); SELECT begin, atomic FROM t; SELECT 1;", 3),
    "rules with several actions": (
        "CREATE TABLE r (); CREATE RULE x AS ON INSERT TO r DO ALSO (SELECT 1; SELECT 2);",
        2,
    ),
    "operators": ("SELECT 1 # 2, 1+-1, '{}'::jsonb #>> '{a}', 2^ -1; SELECT @ -1;", 2),
    "unicode": ("SELECT 'ä;ö' AS grün; SELECT U&'d\\0061t;a' AS U&\"x;\";", 2),
    "bit strings": ("SELECT B'01', X'1F;'; SELECT 1;".replace(";'", "'"), 2),
    "empty statements": (";; SELECT 1;;\n;", 1),
    "a function body": ("CREATE FUNCTION g() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN NULL; END; $f$; SELECT 1", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_the_splitter_agrees_with_the_server(name: str, connection: psycopg.Connection) -> None:
    text, count = CASES[name]
    statements = split(text)
    assert len(statements) == count
    connection.execute(text.encode())  # the server takes the whole
    names = ["DROP FUNCTION IF EXISTS f, g", "DROP TABLE IF EXISTS t, r, a$b$c"]
    for statement in [*names, *(one.text for one in statements)]:
        connection.execute(statement.encode(), prepare=False)  # and every part by itself


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40))
def test_whatever_stands_in_a_literal_stays_there(value: str, connection: psycopg.Connection) -> None:
    literal = psycopg.sql.Literal(value).as_string(connection)
    text = f"SELECT {literal}, 1; SELECT 2"
    assert [one.text for one in split(text)] == [f"SELECT {literal}, 1", "SELECT 2"]


@given(st.text(max_size=200))
def test_any_text_splits_and_every_token_is_where_it_says(text: str) -> None:
    for token in tokens(text):
        assert text[token.start : token.start + len(token.text)] == token.text
    for statement in split(text):
        assert text[statement.offset : statement.offset + len(statement.text)] == statement.text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT 1", "SELECT 2"),
        ("SELECT a b", "SELECT ab"),
        ("SELECT '  x'", "SELECT ' x'"),
        ("SELECT a < b", "SELECT a <= b"),
        ("SELECT a; SELECT b", "SELECT a SELECT b"),
        ("SELECT $$ -- x\n$$", "SELECT $$ \n$$"),
    ],
)
def test_another_token_is_another_checksum(one: str, other: str) -> None:
    assert SqlText(one).checksum != SqlText(other).checksum


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT 1+1;", "SELECT  1 + 1 ;"),
        ("SELECT 1", "-- x\nSELECT /* y */ 1"),
        ("SELECT a=-1", "SELECT a = - 1"),
        ("SELECT a::int", "SELECT a :: int"),
    ],
)
def test_the_same_tokens_are_the_same_checksum(one: str, other: str) -> None:
    assert SqlText(one).checksum == SqlText(other).checksum


def test_line_ends_inside_literals_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "unix.sql").write_bytes(b"SELECT 'a\nb'")
    (tmp_path / "dos.sql").write_bytes(b"SELECT 'a\r\nb'")
    assert SqlText.read(tmp_path / "unix.sql").checksum == SqlText.read(tmp_path / "dos.sql").checksum


def test_twenty_thousand_statements_split_in_a_moment() -> None:
    started = time.monotonic()
    assert len(split("INSERT INTO t VALUES (1, 'x', now());\n" * 20_000)) == 20_000
    assert time.monotonic() - started < 5


def test_durations_are_written_as_in_postgresql() -> None:
    assert [duration_ms(text) for text in ("250ms", "5s", "1.5s", "10 min", "1h", "70")] == [
        250,
        5000,
        1500,
        600_000,
        3_600_000,
        70,
    ]
    with pytest.raises(InvalidRequest):
        duration_ms("5 weeks")


def test_the_lock_file_shows_what_changed(folder: Folder) -> None:
    folder.table("20260101000000_a", "a")
    assert lockfile.differences(folder.path, read_folder(folder.path)) == []
    lockfile.write(folder.path, read_folder(folder.path))
    assert lockfile.differences(folder.path, read_folder(folder.path)) == []
    folder.table("20260101000000_a", "other")
    folder.table("20260102000000_b", "b")
    assert lockfile.differences(folder.path, read_folder(folder.path)) == [
        "20260101000000_a differs from migrations.lock",
        "20260102000000_b is not in migrations.lock",
    ]
    lock = folder.path / lockfile.NAME
    lock.write_text("<<<<<<< ours\n" + lock.read_text())
    assert lockfile.differences(folder.path, read_folder(folder.path)) == [
        "migrations.lock contains an unresolved merge conflict"
    ]
