"""Identify the server process of a cluster. A process id alone is not trusted, because ids are reused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True)
class PidFile:
    """The contents of `postmaster.pid`, which are valid only while the server runs."""

    pid: int
    socket_folder: Path
    status: str

    @classmethod
    def read(cls, cluster: Path) -> PidFile | None:
        """Return the contents, or `None` if the file is missing or incomplete."""
        try:
            lines = (cluster / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
            return cls(int(lines[0]), Path(lines[4]), lines[7].strip())
        except (OSError, ValueError, IndexError):
            return None


def server_process(cluster: Path) -> psutil.Process | None:
    """Return the postmaster, if the process with the recorded id is a `postgres` in the folder of this cluster."""
    note = PidFile.read(cluster)
    if note is None:
        return None
    import psutil

    try:
        return verified(psutil.Process(note.pid), cluster)
    except (psutil.Error, ValueError):
        return None


def verified(process: psutil.Process, cluster: Path) -> psutil.Process | None:
    """Return the process if it is a `postgres` whose working directory is the cluster's folder, else `None`."""
    import psutil

    try:
        ours = Path(process.exe()).name == "postgres" and cluster.samefile(process.cwd())
    except (psutil.Error, OSError):  # ended, a zombie, or of another user
        return None
    return process if ours else None
