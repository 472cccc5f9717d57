"""The user and the git commit that the tracking tables record for a migration."""

from __future__ import annotations

import getpass
import subprocess
from functools import cache
from pathlib import Path
from shutil import which


def user_name() -> str:
    """Return the name of the operating system user, or `unknown` if it has none, as in some containers."""
    try:
        return getpass.getuser()[:255]
    except (KeyError, OSError):
        return "unknown"


@cache
def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in the folder, or None if it is not a git checkout."""
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
