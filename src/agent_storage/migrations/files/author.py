"""Create migration files: a name, a date after all others, two files to fill in."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent_storage.migrations.errors import InvalidRequest
from agent_storage.migrations.files import lockfile
from agent_storage.migrations.files.file import ROLLBACK_SUFFIX, read_folder

_FORMAT = "%Y%m%d%H%M%S"
_UP = "-- Why this change, in a sentence or two.\n"
_BARE = (
    "-- transactional: false\n-- One statement that cannot run in a transaction, such as CREATE INDEX CONCURRENTLY.\n"
)
_DOWN = "-- Rolls back {name}.\n"


@dataclass(frozen=True, slots=True)
class NewMigration:
    """The two files of a migration that was just created."""

    id: str
    up: Path
    down: Path


def new(folder: Path, name: str, *, transactional: bool = True, up: str = "", down: str = "") -> NewMigration:
    """Create `<time>_<name>.sql` and its rollback file, and add it to `migrations.lock`."""
    if Path(sysconfig.get_path("purelib")).resolve() in folder.resolve().parents:
        hint = "name the project's folder with --folder"
        raise InvalidRequest(f"{folder} belongs to an installed package: an upgrade would remove new files", hint=hint)
    folder.mkdir(parents=True, exist_ok=True)
    id_ = f"{next_time(existing_ids(folder))}_{slug(name)}"
    made = NewMigration(id_, folder / f"{id_}.sql", folder / f"{id_}{ROLLBACK_SUFFIX}")
    made.up.write_text((_UP if transactional else _BARE) + up, "utf-8", newline="\n")
    made.down.write_text(_DOWN.format(name=id_) + down, "utf-8", newline="\n")
    lockfile.write(folder, read_folder(folder))
    return made


def existing_ids(folder: Path) -> list[str]:
    """Return the ids of the forward files of a folder."""
    return [path.stem for path in folder.glob("*.sql") if not path.name.endswith(ROLLBACK_SUFFIX)]


def slug(name: str) -> str:
    """Return `Add orders' note` as `add_orders_note`."""
    text = re.sub(r"[^a-z0-9]+", "_", name.removesuffix(".sql").lower()).strip("_")
    if not text:
        raise InvalidRequest(f"{name!r} is not a valid migration name", hint="describe the change: add_orders_note")
    return text[:80].rstrip("_")


def next_time(ids: Sequence[str]) -> str:
    """Return the current time, or the second after the newest id if that is later."""
    now = datetime.now(UTC).strftime(_FORMAT)
    newest = max((id_[:14] for id_ in ids if re.match(r"\d{14}_", id_)), default="")
    if now > newest:
        return now
    try:
        return (datetime.strptime(newest, _FORMAT).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(_FORMAT)
    except ValueError:
        raise InvalidRequest(f"{newest} is not a time, so no later one exists", hint="rename that file") from None
