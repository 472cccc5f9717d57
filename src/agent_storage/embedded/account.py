"""The operating system's account that the server runs as: the caller's own, or for root an unprivileged one."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from agent_storage.errors import InvalidSettings


@dataclass(frozen=True)
class Account:
    """Who runs the server. `switch` says that we are root and have to change to it."""

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def user(self) -> int | None:
        """What `subprocess` takes as `user`."""
        return self.uid if self.switch else None

    @property
    def group(self) -> int | None:
        """What `subprocess` takes as `group`."""
        return self.gid if self.switch else None

    @property
    def extra_groups(self) -> list[int] | None:
        """What `subprocess` takes as `extra_groups`: none of root's."""
        return [] if self.switch else None

    def closed_folder(self, path: Path) -> Path | None:
        """The first existing folder above `path` that the account may not enter, if there is one."""
        above = reversed(path.parents)
        return next((folder for folder in above if folder.exists() and not self._may(folder, stat.S_IXOTH)), None)

    def can_read(self, path: Path) -> bool:
        """Whether the account reaches `path` and may read it; a folder or program also has to be executable."""
        need = stat.S_IROTH | (path.stat().st_mode >> 6 & stat.S_IXOTH)
        return self.closed_folder(path) is None and self._may(path, need)

    def _may(self, path: Path, need: int) -> bool:
        if not self.switch and os.geteuid() == self.uid:
            return os.access(path, need)
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return status.st_mode >> shift & need == need

    def open(self, path: Path, flags: int) -> int:
        """A descriptor of a private file that belongs to the account; created when missing.

        Root works in a folder of the account, so no link there may lead it elsewhere.
        """
        fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if self.switch:
            os.fchown(fd, self.uid, self.gid)
        return fd


def server_account(data_dir: Path) -> Account:
    """The account for the server of `data_dir`. PostgreSQL refuses root, so root uses one that exists already.

    That is the folder's owner, `postgres` or `nobody`. Raises `InvalidSettings` when there is none.
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
            f"the embedded server cannot run as user id {uid}, which has no name: PostgreSQL asks for one; "
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
        "PostgreSQL refuses to run as root, and there is no account postgres or nobody to run it as; "
        "run as another user or set STORAGE_DATABASE_URL"
    )
