"""Key rotation: every stored secret is wrapped again with the newest key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from agent_storage.errors import SecretUnavailable
from agent_storage.maintenance.registry import AnyRepository
from agent_storage.statements.encryption import Keyring, Place
from agent_storage.statements.records import columns
from agent_storage.tables import REPOSITORIES

_BATCH = 500
#: How many of the secrets that were left out are named.
_NAMED = 20


@dataclass
class Rotation:
    """The number of secrets that were rewrapped, and of those that were left as they are, by table and column.

    `faults` says why, for the first 20 of the latter.
    """

    rewrapped: dict[str, int] = field(default_factory=dict[str, int])
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    faults: list[str] = field(default_factory=list[str])


def rotate(
    connection: psycopg.Connection[Any],
    keyring: Keyring,
    repositories: Iterable[AnyRepository] = tuple(REPOSITORIES.values()),
) -> Rotation:
    """Rewrap the secrets of older keys, each batch in one transaction. Return what was done.

    Several repositories of one table count once, with all their columns.
    A secret that does not decrypt, because its key is not in the ring or it was changed, is left as it is and reported.
    """
    done = Rotation()
    for repository in repositories:
        for column in columns(repository.record).values():
            if column.encrypted and f"{repository.table}.{column.name}" not in done.rewrapped:
                _rotate_column(connection, keyring, repository.table, column.name, done)
    return done


def _rotate_column(
    connection: psycopg.Connection[Any], keyring: Keyring, table: str, column: str, done: Rotation
) -> None:
    names = {"table": sql.Identifier(table), "column": sql.Identifier(column)}
    read = sql.SQL(
        "SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL AND split_part({column}, ':', 2) <> $1"
        " AND id > $2 ORDER BY id LIMIT $3 FOR UPDATE"
    ).format(**names)
    write = sql.SQL("UPDATE {table} SET {column} = $1 WHERE id = $2").format(**names)
    name = f"{table}.{column}"
    done.rewrapped[name] = done.skipped[name] = 0
    last, more = UUID(int=0), True
    while more:
        with connection.transaction():
            cursor = psycopg.RawCursor(connection)
            rows = cursor.execute(read, [keyring.current or "", last, _BATCH]).fetchall()
            for id_, stored in rows:
                try:
                    cursor.execute(write, [keyring.rewrap(stored, Place(table, id_, column)), id_])
                    done.rewrapped[name] += 1
                except SecretUnavailable as error:
                    done.skipped[name] += 1
                    done.faults += [str(error)] if len(done.faults) < _NAMED else ()
                last = id_
        more = len(rows) == _BATCH
