"""The folders of a server: the data folder, and the folder of the socket, which needs a short path."""

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

#: The file that marks a data folder of this package.
START_LOCK = "start.lock"

#: The path of a socket is limited to 104 bytes on macOS and 108 on Linux, with the final NUL.
_LONGEST_SOCKET_PATH = 103
_SOCKET = ".s.PGSQL.5432"


def default_data_dir() -> Path:
    """Return the default data folder, which is in the user's data folder.

    For root it is below `/var/lib`, because the server cannot run as root and its account cannot enter root's home.
    """
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/agent-storage/pg18")
    import platformdirs

    return platformdirs.user_data_path("agent-storage", appauthor=False) / "pg18"


def prepare_data_dir(data_dir: Path, account: Account) -> None:
    """Make `data_dir` a private folder of the account. A folder with other files is not changed.

    Raises `InvalidSettings` with the name of the unsuitable folder.
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
            # Root's umask may exclude the account. The folder is new, so no existing permissions are widened.
            folder.chmod(0o755)


def _take_over(data_dir: Path, account: Account) -> None:
    if any(data_dir.iterdir()) and not (data_dir / START_LOCK).exists():
        raise InvalidSettings(
            f"the data folder {data_dir} contains files that are not the embedded server's; "
            "set STORAGE_DATA_DIR to a new or empty folder"
        )
    _make_private(data_dir, account)


def socket_folder(cluster: Path, account: Account) -> Path:
    """Return the folder for the server's socket, named after the cluster. It is not created.

    The temporary folder is preferred: the runtime folder of a session is removed when its user logs out, although
    programs may continue. Raises `InvalidSettings` if no folder is suitable.
    """
    # The inode distinguishes a new cluster from a deleted one, whose server removes its socket when it notices.
    identity = f"{account.uid}:{cluster}:{cluster.stat().st_ino}"
    digest = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    parents = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"]  # noqa: S108 - made private below
    candidates = [Path(parent) / f"agent-storage-{digest}" for parent in parents if parent]
    folder = next((folder for folder in candidates if _fits(folder, account)), None)
    if folder is None:
        raise InvalidSettings(
            f"no folder for the embedded server's socket: {', '.join(parents)} are not accessible, unsafe or have a "
            "path that is too long; set TMPDIR to a short private folder"
        )
    return folder


def prepare_socket_folder(folder: Path, account: Account) -> None:
    """Create the folder, private to the account. Raises `InvalidSettings` if it belongs to another user."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _make_private(folder, account)
    except OSError as error:
        raise InvalidSettings(
            f"the socket folder {folder} cannot be used ({error.strerror}): it may belong to another user; remove it"
        ) from error


def remove_socket_folder(folder: Path, account: Account) -> None:
    """Remove the socket folder of a server that has ended, unless it belongs to another user."""
    with suppress(OSError):
        if folder.lstat().st_uid == account.uid:
            shutil.rmtree(folder)


def socket_path(folder: Path) -> Path:
    """Return the path of the socket in its folder."""
    return folder / _SOCKET


def _fits(folder: Path, account: Account) -> bool:
    parent = folder.parent
    # libpq reads a comma in `host` as a separator of hosts.
    if not parent.is_dir() or "," in str(folder) or len(os.fsencode(socket_path(folder))) > _LONGEST_SOCKET_PATH:
        return False
    status = parent.stat()
    strangers_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    safe = not strangers_write or status.st_mode & stat.S_ISVTX
    return bool(safe) and account.closed_folder(folder) is None and os.access(parent, os.W_OK | os.X_OK)


def _make_private(folder: Path, account: Account) -> None:
    """Set mode 0700 and the account as owner. Raises `OSError` if it is a link or belongs to another user."""
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
