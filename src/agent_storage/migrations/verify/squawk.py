"""squawk, a linter for PostgreSQL migrations, when it is installed (extra `lint`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from agent_storage.migrations.errors import MigrationFailure
from agent_storage.migrations.files.file import MigrationFile
from agent_storage.migrations.files.lint import LintFinding
from agent_storage.migrations.files.report import shown

# The manager sets the time-outs, runs in a transaction, and applies a file only once.
_NOT_HERE = ("require-lock-timeout", "require-statement-timeout", "prefer-robust-stmts")


def find() -> Path | None:
    """Return the path of squawk: beside this Python, or on the PATH."""
    beside = shutil.which("squawk", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("squawk")
    return Path(found) if found else None


def lint(program: Path, files: Sequence[MigrationFile]) -> list[LintFinding]:
    """Return squawk's findings. `-- squawk-ignore rule` above a statement suppresses one."""
    found: list[LintFinding] = []
    for transactional in (True, False):
        paths = [str(file.path) for file in files if file.transactional is transactional]
        if paths:
            found += _run(program, paths, transactional=transactional)
    return found


def _run(program: Path, paths: Sequence[str], *, transactional: bool) -> list[LintFinding]:
    command = [str(program), "--reporter", "json", "--exclude", ",".join(_NOT_HERE)]
    command += ["--assume-in-transaction"] if transactional else []
    done = subprocess.run([*command, "--", *paths], capture_output=True, check=False, timeout=120)  # noqa: S603
    try:
        reported: list[dict[str, Any]] = orjson.loads(done.stdout)
    except orjson.JSONDecodeError as error:
        text = done.stderr.decode(errors="replace").strip()
        raise MigrationFailure(f"squawk ended with {done.returncode}", lines=text.splitlines()) from error
    return [_finding(one) for one in reported]


def _finding(one: dict[str, Any]) -> LintFinding:
    # squawk counts lines and columns from 0.
    severity = "error" if one["level"] == "Error" else "warning"
    rule = f"squawk:{one['rule_name']}"
    return LintFinding(
        shown(Path(one["file"])),
        one["line"] + 1,
        one["column"] + 1,
        rule,
        severity,
        one["message"],
        one.get("help") or "",
    )
