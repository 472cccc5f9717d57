"""A migration file and its folder: names, directives, checksum. Nothing here connects to a database."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from agent_storage.migrations.errors import BadMigrationFile, InvalidRequest
from agent_storage.migrations.files.splitter import Scan, SqlStatement, scan
from agent_storage.sources import SHIPPED, Source

VERSIONS = Path(__file__).parent.parent / "versions"

ROLLBACK_SUFFIX = ".rollback.sql"
LIST_DIRECTIVES = frozenset({"depends", "replaces", "squawk-ignore"})
DIRECTIVES = LIST_DIRECTIVES | {
    "transactional",
    "irreversible",
    "out-of-order",
    "lock-timeout",
    "statement-timeout",
    "data-loss",
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DIRECTIVE = re.compile(r"^--\s*([A-Za-z][A-Za-z_-]*)\s*:\s*(.*?)\s*$")
_SQUAWK = re.compile(r"^--\s*squawk-ignore\s+(.+?)\s*$", re.IGNORECASE)
_HEADER = re.compile(r"\s*(--[^\n]*|/\*.*?\*/)?(\n|\Z)", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h)?")
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, None: 1}


class MigrationKey(NamedTuple):
    """A migration of a source. Two sources may have migrations of the same id."""

    source: str
    id: str

    def __str__(self) -> str:
        return f"{self.source}:{self.id}"

    def name(self, own: str) -> str:
        """Return the name that commands print and take: `ID` in the source `own`, else `SOURCE:ID`."""
        return self.id if self.source == own else str(self)


@dataclass(frozen=True, slots=True)
class Directive:
    """`-- name: value` above the first statement. `line` counts from 1."""

    name: str
    value: str
    line: int

    @property
    def suspect(self) -> bool:
        """Return whether this resembles a directive but is unknown. `-- Note: …` is an ordinary comment."""
        resembles = difflib.get_close_matches(self.name.lower().replace("_", "-"), DIRECTIVES, 1, 0.75)
        return self.name not in DIRECTIVES and (self.name.islower() or bool(resembles))


@dataclass(frozen=True)
class SqlText:
    """The text of a file, with line ends `\\n` and without a BOM. `fault` is the reason if it is unreadable."""

    text: str
    fault: str | None = None

    @classmethod
    def read(cls, path: Path) -> SqlText:
        """Read the file as UTF-8, independent of the locale."""
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            return cls(raw.decode("latin-1"), f"not UTF-8: byte 0x{raw[error.start]:02x} in line {line}")
        if "\0" in text:
            return cls(text, f"holds a NUL character in line {text.count(chr(10), 0, text.index(chr(0))) + 1}")
        return cls(text.replace("\r\n", "\n").replace("\r", "\n"))

    @cached_property
    def scan(self) -> Scan:
        """The result of scanning the text once."""
        return scan(self.text)

    @cached_property
    def md5(self) -> str:
        """MD5 of the text, comparable with PostgreSQL's md5()."""
        return hashlib.md5(self.text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()

    @property
    def statements(self) -> list[SqlStatement]:
        """The statements in the order in which they run."""
        return self.scan.statements

    @property
    def checksum(self) -> str:
        """SHA-256 of the tokens. Comments and white space do not affect it."""
        return self.scan.checksum

    @cached_property
    def directives(self) -> list[Directive]:
        """Every `-- name: value` above the first statement, including unknown and misspelt names."""
        return list(_directives(self.text))

    def values(self, name: str) -> list[str]:
        """Return the values of a directive, in the order of the file."""
        return [directive.value for directive in self.directives if directive.name == name]

    def last(self, name: str, default: str = "") -> str:
        """Return the last value of a directive."""
        return (self.values(name) or [default])[-1]

    def items(self, name: str) -> list[str]:
        """Return the items of a directive that takes a list."""
        return " ".join(self.values(name)).replace(",", " ").split()

    def timeout(self, name: str, default: int) -> int:
        """Return a timeout directive (`lock-timeout`, `statement-timeout`) in milliseconds."""
        value = self.last(name)
        return duration_ms(value) if value else default

    def place(self, offset: int) -> tuple[int, int, str]:
        """Return line and column (from 1) of a character offset, and the text of that line."""
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        line = self.text[start : end if end >= 0 else len(self.text)]
        return self.text.count("\n", 0, offset) + 1, offset - start + 1, line


def _directives(text: str) -> Iterator[Directive]:
    position, number = 0, 0
    while found := _HEADER.match(text, position):
        if found.end() == position:
            return
        comment = (found[1] or "").strip()
        number_here = text.count("\n", 0, found.start(1)) + 1 if found[1] else number
        if squawk := _SQUAWK.match(comment):
            yield Directive("squawk-ignore", squawk[1], number_here)
        elif directive := _DIRECTIVE.match(comment):
            yield Directive(directive[1], directive[2], number_here)
        position = found.end()


@dataclass(frozen=True)
class MigrationFile:
    """`NAME.sql` and its `NAME.rollback.sql`, if there is one."""

    id: str
    path: Path
    up: SqlText
    down: SqlText | None = None
    source: str = SHIPPED
    #: Precedes the id in its name: nothing in the own source, else `SOURCE:`.
    prefix: str = ""

    @property
    def key(self) -> MigrationKey:
        """The source and the id."""
        return MigrationKey(self.source, self.id)

    @property
    def name(self) -> str:
        """The name that commands print and take."""
        return self.prefix + self.id

    @property
    def rollback_path(self) -> Path:
        """The path of the rollback file, which may not exist."""
        return self.path.with_name(self.id + ROLLBACK_SUFFIX)

    @property
    def checksum(self) -> str:
        """The checksum of the forward file. The rollback file may be corrected without a new migration."""
        return self.up.checksum

    @property
    def transactional(self) -> bool:
        """Return whether the file runs in one transaction (not with `-- transactional: false`)."""
        return self.up.last("transactional", "true").lower() != "false"

    @property
    def irreversible(self) -> str | None:
        """The reason of `-- irreversible`, if the file has one."""
        return self.up.last("irreversible") if self.up.values("irreversible") else None

    @property
    def out_of_order(self) -> bool:
        """Return whether the file may be applied after a newer one."""
        return self.up.last("out-of-order").lower() == "ok"

    @property
    def data_loss(self) -> bool:
        """Return whether the file allows statements that discard data (`-- data-loss: ok`)."""
        return self.up.last("data-loss").lower() == "ok"

    @property
    def depends(self) -> list[MigrationKey]:
        """Migrations that must be applied first: `ID` of the same source, `SOURCE:ID` of another one."""
        parted = [text.rpartition(":") for text in self.up.items("depends")]
        return [MigrationKey(source or self.source, id_) for source, _, id_ in parted]

    @property
    def replaces(self) -> list[str]:
        """Ids that this squashed migration replaces."""
        return self.up.items("replaces")


def duration_ms(text: str) -> int:
    """Return `5s`, `250ms`, `10min`, `1h` in milliseconds. A number without a unit is in milliseconds."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f"{text!r} is not a duration", hint="write it like 250ms, 5s, 10min or 1h")
    return round(float(found[1]) * _UNITS[found[2]])


def read_source(source: Source, *, own: bool = True) -> list[MigrationFile]:
    """Return the migrations of a source, by name. Raises as `read_folder` does."""
    prefix = "" if own else f"{source.name}:"
    return [replace(file, source=source.name, prefix=prefix) for file in read_folder(source.migrations)]


def read_folder(folder: Path) -> list[MigrationFile]:
    """Return the migrations of a folder, by name. Raises if the folder is missing, empty or contains other files."""
    if not folder.is_dir():
        raise InvalidRequest(
            f"the migrations folder {folder} does not exist", hint="correct sources, or name it with --folder"
        )
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in {".sql", ".py"})
    forward = [path for path in paths if not path.name.endswith(ROLLBACK_SUFFIX)]
    if not forward:
        raise InvalidRequest(
            f"the migrations folder {folder} contains no migration",
            hint="check the folder; `storage migrate new NAME` creates the first one",
        )
    _refuse_unknown_files(paths, forward)
    return [read_file(path) for path in forward]


def read_file(path: Path) -> MigrationFile:
    """Read one migration with its rollback file."""
    rollback = path.with_name(path.stem + ROLLBACK_SUFFIX)
    return MigrationFile(path.stem, path, SqlText.read(path), SqlText.read(rollback) if rollback.is_file() else None)


def _refuse_unknown_files(paths: Sequence[Path], forward: Sequence[Path]) -> None:
    names = {path.stem for path in forward}
    for path in paths:
        if path.name.endswith(ROLLBACK_SUFFIX):
            if path.name.removesuffix(ROLLBACK_SUFFIX) not in names:
                raise BadMigrationFile(f"{path.name} rolls back a migration that does not exist")
        elif path.suffix == ".py":
            raise BadMigrationFile(f"{path.name}: migrations must be SQL files, not Python")
        elif path.stem.endswith((".up", ".down")):
            hint = "name the two NAME.sql and NAME.rollback.sql"
            raise BadMigrationFile(f"{path.name} would be a forward migration", hint=hint)
        elif path.stem.startswith("post-apply"):
            raise BadMigrationFile(f"{path.name}: hooks that run after every apply are not supported")
        elif not _NAME.fullmatch(path.stem) or len(path.stem) > 200:
            hint = "use letters, digits, _ and -, as in 20261120193653_add_orders_note.sql"
            raise BadMigrationFile(f"{path.name!r} is not a valid migration name", hint=hint)


def find_key(text: str, keys: Iterable[MigrationKey], own: str) -> MigrationKey:
    """Return the migration that `text` identifies: its id in full, a prefix of it, or the part after the time.

    `SOURCE:TEXT` searches that source. Otherwise the source `own` is searched first, then the others.
    """
    keys = list(keys)
    source, colon, id_ = text.rpartition(":")
    near = [key for key in keys if key.source == (source if colon else own)]
    for among in (near, [] if colon else keys):
        matching = [key for key in among if key.id.startswith(id_) or key.id.partition("_")[2] == id_]
        found = [key for key in matching if key.id == id_] or matching
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(key.name(own) for key in found[:5])
            raise InvalidRequest(f"{text!r} matches {len(found)} migrations: {names}", hint="give a longer id")
    raise InvalidRequest(f"there is no migration {text!r}", hint="`storage migrate status` lists them")
