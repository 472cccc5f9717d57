"""The folders of a server: where its data lie, and the short one of its socket."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from agent_storage.embedded.account import Account
from agent_storage.errors import InvalidSettings

#: The file that a data folder of ours always holds.
START_LOCK = "start.lock"

#: A socket's path may have 104 bytes on macOS and 108 on Linux, with the final NUL.
_LONGEST_SOCKET_PATH = 103
_SOCKET = ".s.PGSQL.5432"


def default_data_dir() -> Path:
    """Where the server keeps its data unless told otherwise: in the user's data folder.

    For root it is below `/var/lib`, because the server cannot run as root and its account cannot enter root's home.
    """
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/agent-storage/pg18")
    import platformdirs

    return platformdirs.user_data_path("agent-storage", appauthor=False) / "pg18"


def prepare_data_dir(data_dir: Path, account: Account) -> None:
    """Make `data_dir` a private folder of the account; a folder that holds something else is left alone.

    Raises `InvalidSettings` naming the folder that is in the way.
    """
    closed = account.closed_folder(data_dir)
    if closed is not None:
        raise InvalidSettings(
            f"the data folder {data_dir} cannot be used: the account {account.name}, which runs the embedded server, "
            f"may not enter {closed}; set STORAGE_DATA_DIR to a folder that it can reach, "
            "for example /var/lib/agent-storage"
        )
    try:
        _create(data_dir, account)
        _take_over(data_dir, account)
    except OSError as error:
        raise InvalidSettings(
            f"the data folder {data_dir} cannot be used: {error.strerror}; set STORAGE_DATA_DIR to another folder"
        ) from error


def _create(data_dir: Path, account: Account) -> None:
    missing = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700 if folder == data_dir else 0o777, exist_ok=True)
        if account.switch and folder != data_dir:
            # Root's umask may be closed to the account; the folder is new, so this widens nothing that was there.
            folder.chmod(0o755)


def _take_over(data_dir: Path, account: Account) -> None:
    if any(data_dir.iterdir()) and not (data_dir / START_LOCK).exists():
        raise InvalidSettings(
            f"the data folder {data_dir} holds files that are not the embedded server's; "
            "set STORAGE_DATA_DIR to a new or empty folder"
        )
    _make_private(data_dir, account)


def socket_folder(cluster: Path, account: Account) -> Path:
    """Where the server's socket goes: a folder whose name follows from the cluster's. Not created by this.

    The temporary folder comes first: the runtime folder of a session goes when its user logs out, though programs
    may go on. Raises `InvalidSettings` if there is no place for it.
    """
    # The inode keeps a new cluster apart from the server of a deleted one, which removes its socket when it notices.
    identity = f"{account.uid}:{cluster}:{cluster.stat().st_ino}"
    digest = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    parents = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"]  # noqa: S108 - made private below
    candidates = [Path(parent) / f"agent-storage-{digest}" for parent in parents if parent]
    folder = next((folder for folder in candidates if _fits(folder, account)), None)
    if folder is None:
        raise InvalidSettings(
            f"no folder for the embedded server's socket: {', '.join(parents)} are closed, unsafe or have a path that "
            "is too long; set TMPDIR to a short private folder"
        )
    return folder


def prepare_socket_folder(folder: Path, account: Account) -> None:
    """Create the folder, private to the account. Raises `InvalidSettings` if somebody else made one of that name."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _make_private(folder, account)
    except OSError as error:
        raise InvalidSettings(
            f"the socket folder {folder} cannot be used ({error.strerror}): somebody else may have made it; remove it"
        ) from error


def remove_socket_folder(folder: Path, account: Account) -> None:
    """Remove what a server that has ended may have left there; never somebody else's folder."""
    with suppress(OSError):
        if folder.lstat().st_uid == account.uid:
            shutil.rmtree(folder)


def socket_path(folder: Path) -> Path:
    """The socket in its folder."""
    return folder / _SOCKET


def _fits(folder: Path, account: Account) -> bool:
    parent = folder.parent
    # libpq takes a comma in `host` for the start of another host.
    if not parent.is_dir() or "," in str(folder) or len(os.fsencode(socket_path(folder))) > _LONGEST_SOCKET_PATH:
        return False
    status = parent.stat()
    strangers_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    safe = not strangers_write or status.st_mode & stat.S_ISVTX
    return bool(safe) and account.closed_folder(folder) is None and os.access(parent, os.W_OK | os.X_OK)


def _make_private(folder: Path, account: Account) -> None:
    """Make a folder of ours 0700 and the account's; raises `OSError` if it is a link or belongs to somebody else."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(fd).st_uid
        if account.switch and owner == 0:
            os.fchown(fd, account.uid, account.gid)
        elif owner != account.uid:
            raise PermissionError(0, f"it belongs to user id {owner}")
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
