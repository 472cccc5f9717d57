"""`migrations.lock`: a line `id checksum` for each file, so that two branches that both add a migration conflict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agent_storage.migrations.files.file import MigrationFile

NAME = "migrations.lock"
_HEADER = "# Written by `storage migrate`; commit it. A merge conflict here means: two branches added a migration.\n"

_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")


def render(files: Sequence[MigrationFile]) -> str:
    """Return the text of the lock file for these files."""
    return _HEADER + "".join(f"{file.id} {file.checksum}\n" for file in files)


def write(folder: Path, files: Sequence[MigrationFile]) -> bool:
    """Update the lock file atomically. Return whether it changed."""
    path, text = folder / NAME, render(files)
    if path.is_file() and path.read_text("utf-8") == text:
        return False
    scratch = path.with_name(f".{NAME}.{os.getpid()}")
    scratch.write_text(text, "utf-8", newline="\n")
    scratch.replace(path)
    return True


def refresh(folder: Path, files: Sequence[MigrationFile]) -> None:
    """Update the lock file if the folder has one and is writable. That of an installed package is not."""
    if (folder / NAME).is_file() and os.access(folder, os.W_OK):
        write(folder, files)


def read(folder: Path) -> dict[str, str]:
    """Return checksums by id. Empty if there is no lock file."""
    path = folder / NAME
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split(maxsplit=1) for line in lines if " " in line and not line.startswith(("#", *_CONFLICT)))


def differences(folder: Path, files: Sequence[MigrationFile]) -> list[str]:
    """Return the differences between the lock file and the files, a sentence each. Empty if there is no lock file."""
    path = folder / NAME
    if not path.is_file():
        return []
    if any(line.startswith(_CONFLICT) for line in path.read_text("utf-8").splitlines()):
        return [f"{NAME} contains an unresolved merge conflict"]
    locked = read(folder)
    actual = {file.id: file.checksum for file in files}
    found = [f"{name} is in {NAME} but its file is missing" for name in locked.keys() - actual.keys()]
    found += [f"{name} is not in {NAME}" for name in actual.keys() - locked.keys()]
    found += [f"{name} differs from {NAME}" for name in locked.keys() & actual.keys() if locked[name] != actual[name]]
    return sorted(found)
