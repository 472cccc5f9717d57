"""Making migration files: a name, a date that comes after all others, two files to fill in."""

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
_DOWN = "-- Takes {name} back.\n"


@dataclass(frozen=True, slots=True)
class NewMigration:
    """The two files of a migration that was just made."""

    id: str
    up: Path
    down: Path


def new(folder: Path, name: str, *, transactional: bool = True, up: str = "", down: str = "") -> NewMigration:
    """Make `<time>_<name>.sql` and its rollback file, and enter it into `migrations.lock`."""
    if Path(sysconfig.get_path("purelib")).resolve() in folder.resolve().parents:
        hint = "name a folder of your own with --folder"
        raise InvalidRequest(
            f"{folder} is an installed package's: an upgrade would remove what is put there", hint=hint
        )
    folder.mkdir(parents=True, exist_ok=True)
    id_ = f"{next_time(existing_ids(folder))}_{slug(name)}"
    made = NewMigration(id_, folder / f"{id_}.sql", folder / f"{id_}{ROLLBACK_SUFFIX}")
    made.up.write_text((_UP if transactional else _BARE) + up, "utf-8", newline="\n")
    made.down.write_text(_DOWN.format(name=id_) + down, "utf-8", newline="\n")
    lockfile.write(folder, read_folder(folder))
    return made


def existing_ids(folder: Path) -> list[str]:
    """The ids of the forward files of a folder."""
    return [path.stem for path in folder.glob("*.sql") if not path.name.endswith(ROLLBACK_SUFFIX)]


def slug(name: str) -> str:
    """`Add orders' note` as `add_orders_note`."""
    text = re.sub(r"[^a-z0-9]+", "_", name.removesuffix(".sql").lower()).strip("_")
    if not text:
        raise InvalidRequest(f"{name!r} is no name for a migration", hint="say what it does, as in add_orders_note")
    return text[:80].rstrip("_")


def next_time(ids: Sequence[str]) -> str:
    """The time now, or the second after the newest id if clocks disagree."""
    now = datetime.now(UTC).strftime(_FORMAT)
    newest = max((id_[:14] for id_ in ids if re.match(r"\d{14}_", id_)), default="")
    if now > newest:
        return now
    try:
        return (datetime.strptime(newest, _FORMAT).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(_FORMAT)
    except ValueError:
        raise InvalidRequest(f"{newest} is not a time, so nothing can come after it", hint="rename that file") from None
