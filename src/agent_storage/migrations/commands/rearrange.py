"""Commands that rearrange migration files: rebase gives late ones a new date, squash merges many into one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_storage.migrations.errors import DriftFound, InvalidRequest
from agent_storage.migrations.files.author import next_time
from agent_storage.migrations.files.file import ROLLBACK_SUFFIX, MigrationFile, MigrationKey, SqlText, find_key
from agent_storage.migrations.files.splitter import SqlStatement, tokens
from agent_storage.migrations.history.yoyo import in_order
from agent_storage.migrations.run.migrations import Migrations
from agent_storage.migrations.verify.catalogs import of_migrations
from agent_storage.migrations.verify.drift import differences
from agent_storage.migrations.verify.shadow import ShadowServer


@dataclass(frozen=True, slots=True)
class Renamed:
    """A migration that was given a new id."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Squashed:
    """A migration that replaces several others."""

    id: str
    replaces: list[str]
    statements: int


def rebase(migrator: Migrations) -> list[Renamed]:
    """Rename pending migrations that are older than the newest applied one, so that they sort last."""
    with migrator.session() as session:
        timeline = migrator.timelines(session).of_own
    newest = max(timeline.applied, default="")
    late = [file for file in timeline.pending if file.id < newest and not file.out_of_order]
    ids = [file.id for file in timeline.files]
    renamed: list[Renamed] = []
    for file in late:
        new = f"{next_time(ids)}_{re.sub(r'^[0-9]+_', '', file.id)}"
        ids.append(new)
        renamed.append(Renamed(file.id, new))
    _rename(migrator, renamed)
    migrator.refresh_lockfiles(migrator.files())
    return renamed


def _rename(migrator: Migrations, renamed: Sequence[Renamed]) -> None:
    """Rename the files, and write their new ids where files of any source but the shipped one depend on them."""
    files, own = migrator.files(), migrator.own
    for one in renamed:
        for suffix in (".sql", ROLLBACK_SUFFIX):
            path = own.migrations / f"{one.old}{suffix}"
            if path.is_file():
                path.rename(own.migrations / f"{one.new}{suffix}")
    new = {MigrationKey(own.name, one.old): one.new for one in renamed}
    for file in files:
        if set(file.depends) & new.keys():
            path = file.path.with_name(f"{new.get(file.key, file.id)}.sql")
            path.write_text(_depends_on(file, new), "utf-8", newline="\n")


def _depends_on(file: MigrationFile, new: dict[MigrationKey, str]) -> str:
    """Return the text with new ids in its `-- depends:` lines."""

    def renamed(word: re.Match[str]) -> str:
        source, colon, id_ = word[0].rpartition(":")
        return f"{source}{colon}{new.get(MigrationKey(source or file.source, id_), id_)}"

    def replace(line: re.Match[str]) -> str:
        directive, colon, ids = line[0].partition(":")
        return directive + colon + re.sub(r"[\w.:-]+", renamed, ids)

    return re.sub(r"^--\s*depends\s*:.*$", replace, file.up.text, flags=re.MULTILINE)


def squash(migrator: Migrations, server: ShadowServer, to: str) -> Squashed:
    """Merge all migrations of the own source up to `to` into one.

    Raises `DriftFound` unless both directions, run in a shadow database, give the same schema.
    Databases that have applied all of them record the new one as applied. Empty databases run it.
    """
    files = migrator.files()
    own = [file for file in files if file.source == migrator.own.name]
    last = find_key(to, [file.key for file in own], migrator.own.name).id
    parts = own[: [file.id for file in own].index(last) + 1]
    if len(parts) < 2:
        raise InvalidRequest(f"there is only one migration up to {last}", hint="give a later id")
    made = _squashed(migrator.own.migrations, parts)
    rest = [file for file in files if file not in parts]
    # The order of all sources has to be possible with the new file, too.
    in_order([*rest, made])
    _prove(server, [file for file in rest if files.index(file) < files.index(parts[-1])], parts, made)
    for part in parts:
        part.path.unlink()
        part.rollback_path.unlink(missing_ok=True)
    made.path.write_text(made.up.text, "utf-8", newline="\n")
    if made.down is not None:
        made.rollback_path.write_text(made.down.text, "utf-8", newline="\n")
    migrator.refresh_lockfiles(migrator.files())
    return Squashed(made.id, made.replaces, len(made.up.statements))


def _squashed(folder: Path, parts: Sequence[MigrationFile]) -> MigrationFile:
    id_ = f"{parts[-1].id.partition('_')[0]}_squashed"
    replaces = [old for part in parts for old in [*part.replaces, part.id]]
    reasons = [part.irreversible for part in parts if part.irreversible is not None]
    header = [f"-- replaces: {name}" for name in replaces]
    others = [str(key) for part in parts for key in part.depends if key.source != part.source]
    header += [f"-- depends: {name}" for name in dict.fromkeys(others)]
    header += ["-- data-loss: ok"] if any(part.data_loss for part in parts) else []
    header += [f"-- irreversible: {'; '.join(reasons)}"] if reasons else []
    up = "\n".join([*header, "", *(_section(part.id, part.up) for part in parts)])
    down = "\n".join(_section(part.id, part.down) for part in reversed(parts) if part.down is not None)
    path = folder / f"{id_}.sql"
    return MigrationFile(id_, path, SqlText(up), None if reasons else SqlText(down), parts[0].source, parts[0].prefix)


def _section(id_: str, text: SqlText) -> str:
    return "\n".join([f"-- {id_}", *(f"{_plain(statement)};" for statement in text.statements), ""])


def _plain(statement: SqlStatement) -> str:
    """Return the statement without CONCURRENTLY, which has no use in the empty database that it runs in."""
    if "CONCURRENTLY" not in statement.words:
        return statement.text
    text = statement.text
    for token in reversed(list(tokens(text))):
        if token.kind == "word" and token.text.upper() == "CONCURRENTLY":
            text = text[: token.start] + text[token.start + len(token.text) :].lstrip()
    return text


def _prove(
    server: ShadowServer, before: Sequence[MigrationFile], parts: Sequence[MigrationFile], made: MigrationFile
) -> None:
    """Compare both after the migrations of other sources, `before`. Raises `DriftFound` if they differ."""
    found = differences(of_migrations(server, [*before, *parts]), of_migrations(server, [*before, made]))
    if found:
        raise DriftFound("the squashed migration does not create the same schema", lines=found)
    if made.down is not None:
        down = MigrationFile("down", made.rollback_path, made.down)
        left = differences(of_migrations(server, before), of_migrations(server, [*before, made, down]))
        if left:
            raise DriftFound("the squashed rollback does not remove everything", lines=left)
