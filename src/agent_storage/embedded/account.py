"""The operating system account of the server: that of the process, or for root an unprivileged one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agent_storage.errors import InvalidSettings


@dataclass(frozen=True)
class Account:
    """The account that runs the server. `switch`: the process is root and must change to it."""

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def user(self) -> int | None:
        """The argument `user` of `subprocess`."""
        return self.uid if self.switch else None

    @property
    def group(self) -> int | None:
        """The argument `group` of `subprocess`."""
        return self.gid if self.switch else None

    @property
    def extra_groups(self) -> list[int] | None:
        """The argument `extra_groups` of `subprocess`: none of root's groups."""
        return [] if self.switch else None

    def closed_folder(self, path: Path) -> Path | None:
        """Return the first existing folder above `path` that the account may not enter, or None."""
        above = reversed(path.parents)
        return next((folder for folder in above if folder.exists() and not self._may(folder, stat.S_IXOTH)), None)

    def can_read(self, path: Path) -> bool:
        """Return whether the account may read `path` and, for a folder or program, execute it."""
        need = stat.S_IROTH | (path.stat().st_mode >> 6 & stat.S_IXOTH)
        return self.closed_folder(path) is None and self._may(path, need)

    def _may(self, path: Path, need: int) -> bool:
        if not self.switch and os.geteuid() == self.uid:
            return os.access(path, need)
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return status.st_mode >> shift & need == need

    def open(self, path: Path, flags: int) -> int:
        """Return a descriptor of a private file that belongs to the account. Creates it if it is missing.

        Links are not followed, because root works in a folder that the account can write.
        """
        fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if self.switch:
            os.fchown(fd, self.uid, self.gid)
        return fd


def server_account(data_dir: Path) -> Account:
    """Return the account for the server of `data_dir`. For root, which PostgreSQL rejects, it is an existing account.

    That is the owner of the folder, `postgres` or `nobody`. Raises `InvalidSettings` if there is none.
    """
    if os.geteuid() != 0:
        return _account(os.geteuid(), switch=False)
    owner = data_dir.stat().st_uid if data_dir.exists() else 0
    uid = owner or _unprivileged()
    return _account(uid, switch=True)


def _account(uid: int, *, switch: bool) -> Account:
    import pwd  # not on Windows, where this module must still import

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise InvalidSettings(
            f"the embedded server cannot run as user id {uid}, which has no name: PostgreSQL requires one; "
            "add it to /etc/passwd or set STORAGE_DATABASE_URL"
        ) from None
    return Account(entry.pw_name, uid, entry.pw_gid, switch)


def _unprivileged() -> int:
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise InvalidSettings(
        "PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it as; "
        "run as another user or set STORAGE_DATABASE_URL"
    )
