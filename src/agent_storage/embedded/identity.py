"""Which process is the server of a cluster: process ids are given anew to other programs, so none is believed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True)
class PidFile:
    """What the server writes about itself into `postmaster.pid`; true only as long as the server lives."""

    pid: int
    socket_folder: Path
    status: str

    @classmethod
    def read(cls, cluster: Path) -> PidFile | None:
        """The file's content, or `None` if it is missing or not yet complete."""
        try:
            lines = (cluster / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
            return cls(int(lines[0]), Path(lines[4]), lines[7].strip())
        except (OSError, ValueError, IndexError):
            return None


def server_process(cluster: Path) -> psutil.Process | None:
    """The server's first process, if the one with the recorded id really is a `postgres` in this cluster's folder."""
    note = PidFile.read(cluster)
    if note is None:
        return None
    import psutil

    try:
        return verified(psutil.Process(note.pid), cluster)
    except (psutil.Error, ValueError):
        return None


def verified(process: psutil.Process, cluster: Path) -> psutil.Process | None:
    """The process, if it is a `postgres` that works in the cluster's folder."""
    import psutil

    try:
        ours = Path(process.exe()).name == "postgres" and cluster.samefile(process.cwd())
    except (psutil.Error, OSError):  # ended, a zombie, or somebody else's
        return None
    return process if ours else None
