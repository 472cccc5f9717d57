"""The command line as a newcomer meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import storage

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def url(database: str) -> dict[str, str]:
    return {"STORAGE_DATABASE_URL": database}


def test_the_way_from_an_empty_database_to_a_shown_conversation(url: dict[str, str]) -> None:
    early = storage("demo", **url)
    assert early.returncode == 3
    assert "storage migrate up" in early.stderr
    assert storage("migrate", "up", **url).returncode == 0
    first = storage("demo", **url)
    assert first.returncode == 0, first.stderr
    for text in ("Bergen → Oslo", "timetable.search", "日本", "13 messages", "cost 0.006051", "next: storage status"):
        assert text in first.stdout
    assert "\x00" not in first.stdout
    again = json.loads(storage("demo", "--json", **url).stdout)
    assert len(again["messages"]) == again["usage"]["messages"] == 13
    assert again["tools"][0]["calls"] == 2
    status = json.loads(storage("status", "--json", **url).stdout)
    assert (status["applied"] > 1, status["pending"]) == (True, 0)
    assert "0 pending" in storage("status", **url).stdout


def test_a_file_with_a_conversation_is_stored_and_other_files_are_refused(url: dict[str, str], tmp_path: Path) -> None:
    storage("migrate", "up", **url)
    mine = tmp_path / "my talk.json"
    talk = json.loads((ROOT / "examples" / "conversation.json").read_text("utf-8"))
    mine.write_text(json.dumps({**talk, "title": "mine"}), "utf-8")
    assert "mine" in storage("demo", "--file", str(mine), **url).stdout
    for text in ("[]", "{", '{"title": "x"}'):
        mine.write_text(text, "utf-8")
        refused = storage("demo", "--file", str(mine), **url)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
    assert "cannot read" in storage("demo", "--file", str(tmp_path / "absent.json"), **url).stderr


def test_statements_are_listed_shown_and_explained(migrated: str) -> None:
    assert "messages.latest" in storage("sql").stdout
    assert storage("sql", "messages.latest").stdout.startswith("/* messages.latest */")
    assert set(json.loads(storage("sql", "models", "--json").stdout)) >= {"models.enabled", "models.get"}
    plan = storage("sql", "messages.latest", "--explain", "--db", migrated)
    assert "Index Scan Backward using messages_conversation_id_position_key" in plan.stdout
    assert storage("sql", "messages", "--explain").returncode == 2


def test_check_agrees_with_itself(database: str) -> None:
    checked = storage("check", "--json", "--db", database)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout) == {"findings": []}


def test_a_dead_database_is_one_sentence_and_exit_code_eight() -> None:
    for command in (["status"], ["demo"], ["migrate", "status"]):
        shown = storage(*command, STORAGE_DATABASE_URL="postgresql://u:hush@127.0.0.1:1/db")
        assert shown.returncode == 8, shown.stderr
        assert shown.stderr.startswith("error: ")
        assert "hush" not in shown.stderr + shown.stdout
    wrong = storage("status", STORAGE_DATABASE_URL="mysql://h/db")
    assert (wrong.returncode, "not a PostgreSQL URL" in wrong.stderr) == (2, True)


def test_keys_are_made_and_rotated(migrated: str) -> None:
    key = storage("secrets", "new-key").stdout.strip()
    rotated: Any = storage("secrets", "rotate", "--json", "--db", migrated, STORAGE_SECRET_KEY=key)
    nothing = {"providers.api_key": 0, "tool_configs.env": 0}
    assert json.loads(rotated.stdout) == {"rewrapped": nothing, "skipped": nothing, "faults": []}
