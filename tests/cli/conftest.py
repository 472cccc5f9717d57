"""The command line, run in this process by Typer's runner, and the ids of demo rows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from agent_storage import sync
from agent_storage.cli import app

PLAIN = {"NO_COLOR": "1", "COLUMNS": "120"}


def storage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `storage …` to its end, in this process."""
    ended = CliRunner().invoke(app, arguments, env={**PLAIN, **environment}, prog_name="storage")
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, ended.stderr)


def shown(url: str, *arguments: str, **environment: str) -> str:
    done = storage(*arguments, "--db", url, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(url: str, *arguments: str) -> Any:
    return json.loads(shown(url, *arguments, "--json"))


@pytest.fixture
def seeded(seeded_database: str) -> Iterator[sync.Storage]:
    with sync.Storage(seeded_database) as opened:
        yield opened


@pytest.fixture
def ids(seeded: sync.Storage) -> dict[str, str]:
    """The id of one row of each group of commands."""
    return {
        "session": str(seeded.sessions.roots(1)[0].id),
        "conversation": str(seeded.conversations.recent(1).items[0].id),
        "workflow": str(seeded.workflows.find(limit=1)[0].id),
        "checkpoint": str(seeded.checkpoints.find(limit=1)[0].id),
        "budget": str(seeded.budget_pools.find(limit=1)[0].id),
        "approval": "ffffffff",
    }
