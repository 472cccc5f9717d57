"""The examples of docs/adapters.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "adapters.md").read_text(), re.DOTALL
)


def run(code: str) -> None:
    # The example ends in asyncio.run(), for which the test must not have a loop of its own.
    exec(compile(code, "docs/adapters.md", "exec"), {"__name__": "example"})  # noqa: S102


def test_the_workflow_example(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORAGE_DATABASE_URL", migrated)
    run(EXAMPLES[0])
    out = capsys.readouterr().out
    assert "was approved by ann at" in out and "waiting_for_approval" in out


def test_the_checkpoint_example(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORAGE_DATABASE_URL", migrated)
    monkeypatch.chdir(tmp_path)
    run(EXAMPLES[1])
    out = capsys.readouterr().out
    assert "agent-1" in out and "copied=1" in out and (tmp_path / "agents.db").exists()
