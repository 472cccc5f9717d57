"""The statement that creates rows with ids and secrets of the caller's.

A ciphertext differs each time that it is made, so SQL cannot tell whether a secret that is given again is the stored
one. It is compared here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from pydantic import SecretStr

from agent_storage.errors import AlreadyExists
from agent_storage.statements.codec import Codec, secret_text
from agent_storage.statements.encryption import Place
from agent_storage.statements.records import Column, Record, columns
from agent_storage.statements.statement import Statement
from agent_storage.statements.text import decode_json

T = TypeVar("T")


class IdentifiedSecrets(Statement[T]):
    """Its result may be refused after the statement has run, so it is never `certain` and always in a transaction."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.certain = False

    def encode_chunks(self, arguments: Mapping[str, Any], codec: Codec) -> Iterator[list[Any]] | None:
        """Return the values of each chunk; of few rows, of the only one."""
        return super().encode_chunks(arguments, codec) or iter([self.encode(arguments, codec)])

    def result(
        self,
        names: Sequence[str] | None,
        rows: Iterable[Sequence[Any]],
        affected: int,
        values: Sequence[Any],
        codec: Codec,
    ) -> T:
        """Return the rows. Raises `AlreadyExists` for one that exists with another secret."""
        result: Any = super().result(names, rows, affected, values, codec)
        made: list[Record] = result if self.shape.kind == "many" else [result]
        for row, given in zip(made, decode_json(values[0]), strict=True):
            for column in columns(type(row)).values():
                if column.encrypted and given[column.name] is not None:
                    wanted = codec.keyring.decrypt(given[column.name], Place(self.table, row.id, column.name))
                    stored = getattr(row, column.name)
                    if stored is None or not _equal(column, secret_text(stored), wanted):
                        raise AlreadyExists(
                            f"{self.table}: row {row.id} exists and differs in {column.name}; repeat the call with the "
                            f"values of the first one, or choose another id (statement {self.name})",
                            table=self.table,
                            column=column.name,
                            statement=self.name,
                        )
        return result


def _equal(column: Column, one: str, other: str) -> bool:
    return one == other or (column.python_type is not SecretStr and orjson.loads(one) == orjson.loads(other))
