"""Who applied a migration, and from which commit: for the books, and for whoever asks later."""

from __future__ import annotations

import getpass
import subprocess
from functools import cache
from pathlib import Path
from shutil import which


def user_name() -> str:
    """The operating system's user, or `unknown` in a container that has none."""
    try:
        return getpass.getuser()[:255]
    except (KeyError, OSError):
        return "unknown"


@cache
def git_commit(folder: Path) -> str | None:
    """The commit that the folder's checkout stands at, if it is one."""
    git = which("git")
    if git is None or not folder.is_dir():
        return None
    try:
        done = subprocess.run(  # noqa: S603
            [git, "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
