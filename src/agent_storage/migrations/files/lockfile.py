"""`migrations.lock`: one line `id checksum` for each file, so that two branches that both add a migration conflict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agent_storage.migrations.files.file import MigrationFile

NAME = "migrations.lock"
_HEADER = "# Written by `storage migrate`; commit it. A merge conflict here means: two branches added a migration.\n"

_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")


def render(files: Sequence[MigrationFile]) -> str:
    """The lock's text for these files."""
    return _HEADER + "".join(f"{file.id} {file.checksum}\n" for file in files)


def write(folder: Path, files: Sequence[MigrationFile]) -> bool:
    """Bring the lock up to date; whether it changed. Replaced in one step, so a crash leaves the old one."""
    path, text = folder / NAME, render(files)
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    scratch = path.with_name(f".{NAME}.{os.getpid()}")
    scratch.write_text(text, "utf-8", newline="\n")
    scratch.replace(path)
    return True


def refresh(folder: Path, files: Sequence[MigrationFile]) -> None:
    """Bring the lock up to date if the folder keeps one and can be written; an installed package cannot."""
    if (folder / NAME).is_file() and os.access(folder, os.W_OK):
        write(folder, files)


def read(folder: Path) -> dict[str, str]:
    """Checksums by id; empty if there is no lock."""
    path = folder / NAME
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split(maxsplit=1) for line in lines if " " in line and not line.startswith(("#", *_CONFLICT)))


def differences(folder: Path, files: Sequence[MigrationFile]) -> list[str]:
    """How the lock and the files disagree, a sentence each; nothing if there is no lock."""
    path = folder / NAME
    if not path.is_file():
        return []
    if any(line.startswith(_CONFLICT) for line in path.read_text("utf-8").splitlines()):
        return [f"{NAME} holds an unresolved merge conflict"]
    locked = read(folder)
    actual = {file.id: file.checksum for file in files}
    found = [f"{name} is in {NAME} but its file is gone" for name in locked.keys() - actual.keys()]
    found += [f"{name} is not in {NAME}" for name in actual.keys() - locked.keys()]
    found += [f"{name} differs from {NAME}" for name in locked.keys() & actual.keys() if locked[name] != actual[name]]
    return sorted(found)
