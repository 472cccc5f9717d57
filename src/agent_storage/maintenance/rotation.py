"""Key rotation: every stored secret is wrapped again with the newest key."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from agent_storage.statements.encryption import Keyring, Place
from agent_storage.statements.records import columns
from agent_storage.tables import REPOSITORIES

_BATCH = 500


def rotate(connection: psycopg.Connection[Any], keyring: Keyring) -> dict[str, int]:
    """Rewrap the secrets of older keys, each batch in one transaction. Return their number by table and column.

    Raises `SecretUnavailable` for a secret whose key is not in the ring; the batches before it stay rewrapped.
    """
    done: dict[str, int] = {}
    for repository in REPOSITORIES.values():
        for column in columns(repository.record).values():
            if column.encrypted:
                done[f"{repository.table}.{column.name}"] = _rotate_column(
                    connection, keyring, repository.table, column.name
                )
    return done


def _rotate_column(connection: psycopg.Connection[Any], keyring: Keyring, table: str, column: str) -> int:
    names = {"table": sql.Identifier(table), "column": sql.Identifier(column)}
    read = sql.SQL(
        "SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL AND split_part({column}, ':', 2) <> $1"
        " ORDER BY id LIMIT $2 FOR UPDATE"
    ).format(**names)
    write = sql.SQL("UPDATE {table} SET {column} = $1 WHERE id = $2").format(**names)
    total = 0
    while True:
        with connection.transaction():
            cursor = psycopg.RawCursor(connection)
            rows = cursor.execute(read, [keyring.current or "", _BATCH]).fetchall()
            for id_, stored in rows:
                cursor.execute(write, [keyring.rewrap(stored, Place(table, id_, column)), id_])
        total += len(rows)
        if len(rows) < _BATCH:
            return total
