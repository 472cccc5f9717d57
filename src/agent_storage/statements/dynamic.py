"""The statements that depend on the call: filters, pages and partial updates, composed once for each form and kept.

Every function is cached by what shapes the text (fields, operators, order), never by values, so equal calls share one
statement and PostgreSQL prepares it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from agent_storage.errors import StorageError
from agent_storage.statements.codec import Codec, check
from agent_storage.statements.declaration import quoted
from agent_storage.statements.filters import Fields, Form, OrderKey, predicate
from agent_storage.statements.lists import Counts, Found, Page, within
from agent_storage.statements.pagination import after_sql, order_sql, write_cursor
from agent_storage.statements.records import Column, JsonObject, columns
from agent_storage.statements.statement import Shape, Statement

_FORMS = 2048
Order = tuple[OrderKey, ...]


class Parent(NamedTuple):
    """A row to lock before an UPDATE: that to which `name` refers, as the row is stored or as it is set."""

    name: str
    table: str
    stored: bool = False
    strength: str = "KEY SHARE"


Parents = tuple[Parent, ...]

_ID = Column("id", UUID, nullable=False, storage=None)


class Listed(Statement[Found[Any]]):
    """A select of rows. With a limit, it asks for one row more, and the limit is the last but one of the values."""

    limited = True

    def result(
        self,
        names: Sequence[str] | None,
        rows: Iterable[Sequence[Any]],
        affected: int,
        values: Sequence[Any],
        codec: Codec,
    ) -> Found[Any]:
        """Return the rows."""
        found = self.rows.make(names or (), rows, codec)
        return within(values[-2] - 1, found) if self.limited else Found(found)


class Counted(Listed):
    """A select whose first column is the number of all matching rows, in the same snapshot."""

    def result(
        self,
        names: Sequence[str] | None,
        rows: Iterable[Sequence[Any]],
        affected: int,
        values: Sequence[Any],
        codec: Codec,
    ) -> Found[Any]:
        """Return the rows, with their total. No match still gives one row, of nulls, that carries the total."""
        if names is None:
            raise StorageError(f"{self.name} gave no rows")
        at = list(names).index("id", 1)
        given = list(rows)
        rows = [row[1:] for row in given if row[at] is not None]
        found = within(values[-2] - 1, self.rows.make(names[1:], rows, codec))
        found.total = given[0][0]
        return found


class Paged(Statement[Page[Any]]):
    """A list as a page."""

    def __init__(self, found: Listed, order: Order) -> None:
        vars(self).update(vars(found))
        self._found = found
        self._order = order

    def result(
        self,
        names: Sequence[str] | None,
        rows: Iterable[Sequence[Any]],
        affected: int,
        values: Sequence[Any],
        codec: Codec,
    ) -> Page[Any]:
        """Return the page. It has a cursor after its last row if there are more."""
        found = self._found.result(names, rows, affected, values, codec)
        cursor = write_cursor(self._order, found[-1], self.table) if found.more else None
        return Page(list(found), cursor, found.total)


class Changed(Statement[Any]):
    """A change of one row, whose id is the last of the values."""

    def absence(self, values: Sequence[Any]) -> str:
        """Return the message that names the missing row."""
        return f"{self.table} has no row {values[-1]} (statement {self.name})"

    def given_id(self, values: Sequence[Any]) -> UUID | None:
        """Return the last of the values."""
        return values[-1]


@lru_cache(_FORMS)
def select(
    table: str,
    record: Any,
    form: Form,
    order: Order,
    *,
    after: tuple[bool, ...] | None = None,
    total: bool = False,
    limited: bool = True,
    made: Any = None,
) -> Listed:
    """Return the statement that selects rows in order: those that match and, with `after`, follow the cursor.

    The cursor's items say which keys are null. The rows are made into `made` (default: `record`), whose fields alone
    are selected.
    """
    made = made or record
    fields = Fields.of(table, record)
    matching, number = predicate(form, fields.columns)
    where = matching
    if after is not None:
        after_cursor, number = after_sql(order, after, fields, number)
        # A disjunction at the top of the filter would bind less than AND.
        where = f"({matching}) AND {after_cursor}" if matching else after_cursor
    rows = f"SELECT {_list(made)}\n  FROM {quoted(table)}{_where(where)}\n ORDER BY {order_sql(order)}"
    if limited:
        rows += f"\n LIMIT ${number} OFFSET ${number + 1}"
    if not total:
        found = Listed(f"{table}.find", rows, Shape("many", made), table=table, repeatable=True)
        found.limited = limited
        return found
    counted = (
        "SELECT counted.total, found.*\n"
        f"  FROM (SELECT count(*) AS total FROM {quoted(table)}{_where(matching)}) counted"
        f"\n  LEFT JOIN LATERAL (\n{rows}\n) found ON true"
    )
    return Counted(f"{table}.find_and_count", counted, Shape("many", made), table=table, repeatable=True)


@lru_cache(_FORMS)
def page(table: str, record: Any, form: Form, order: Order, **given: Any) -> Statement[Page[Any]]:
    """Return the statement of `select`, with a page as its result."""
    return Paged(select(table, record, form, order, **given), order)


@lru_cache(_FORMS)
def by_key(table: str, record: Any, key: tuple[str, ...]) -> Statement[Any]:
    """Return the statement that selects the row with a natural key."""
    where = " AND ".join(f"{quoted(name)} = ${number}" for number, name in enumerate(key, start=1))
    text = f"SELECT {_list(record)} FROM {quoted(table)} WHERE {where}"
    return Statement(f"{table}.get_by", text, Shape("optional", record), table=table, repeatable=True)


@lru_cache(_FORMS)
def count(table: str, record: Any, form: Form) -> Statement[int]:
    """Return the statement that counts the rows that match."""
    where, _ = predicate(form, columns(record))
    return Statement(
        f"{table}.count",
        f"SELECT count(*) FROM {quoted(table)}{_where(where)}",
        Shape("one", int),
        table=table,
        repeatable=True,
        certain=True,
    )


class Tallied(Statement[Counts[Any]]):
    """A count for each value. The limit is the last of the values, one more than was asked for."""

    def result(
        self,
        names: Sequence[str] | None,
        rows: Iterable[Sequence[Any]],
        affected: int,
        values: Sequence[Any],
        codec: Codec,
    ) -> Counts[Any]:
        """Return the counts."""
        given = list(rows)
        counts = Counts((value, number) for value, number in given[: values[-1] - 1])
        counts.more = len(given) > len(counts)
        return counts


@lru_cache(_FORMS)
def count_by(table: str, record: Any, name: str, form: Form) -> Statement[Counts[Any]]:
    """Return the statement that counts the rows that match for each value of a column, the most frequent first."""
    where, number = predicate(form, columns(record))
    text = (
        f"SELECT {quoted(name)}, count(*) FROM {quoted(table)}{_where(where)}\n"
        f" GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ${number}"
    )
    return Tallied(f"{table}.count_by", text, Shape("many", Any), table=table, repeatable=True, certain=True)


@lru_cache(_FORMS)
def update_where(
    table: str, record: Any, names: tuple[str, ...], form: Form, parents: Parents = (), *, keys: bool
) -> Statement[int]:
    """Return the statement that sets `names` of the rows that match. The filter's parameters come after the values.

    It locks as `update_many` does.
    """
    where, _ = predicate(form, columns(record), len(names) + 1)
    locked = _locked(table, names, parents, where, "UPDATE" if keys else "NO KEY UPDATE")
    text = f"WITH {locked}\nUPDATE {quoted(table)} SET {_set(names)} FROM locked WHERE id = locked.of AND ({where})"
    return Statement(f"{table}.update_where", text, Shape("one", int), table=table, certain=True)


@lru_cache(_FORMS)
def delete(table: str, record: Any, form: Form) -> Statement[int]:
    """Return the statement that deletes the rows that match."""
    matching, _ = predicate(form, columns(record))
    name = quoted(table)
    text = (
        f"WITH found AS MATERIALIZED (\n    SELECT ARRAY(SELECT id FROM {name}{_where(matching)}) AS ids\n"
        f"), locked AS MATERIALIZED (\n    SELECT lock_for_delete('{name}', ids) FROM found\n)\n"
        f"DELETE FROM {name} USING (SELECT unnest(ids) AS of FROM found CROSS JOIN locked) rows\n"
        f" WHERE id = rows.of AND ({matching})"
    )
    return Statement(
        f"{table}.delete_where",
        text,
        Shape("one", int),
        table=table,
        certain=True,
    )


@lru_cache(_FORMS)
def update(
    table: str, record: Any, names: tuple[str, ...], parents: Parents = (), key: tuple[str, ...] = ()
) -> Statement[Any]:
    """Return the statement that sets `names` of the row whose id is the last parameter.

    It locks `parents` first, as `update_many` does. With a `key`, whose values come before the id, it gives None unless
    the row has this key.
    """
    row = f"id = ${len(names) + len(key) + 1}"
    keyed = [f"{quoted(name)} = ${number}" for number, name in enumerate(key, len(names) + 1)]
    matched = " AND ".join([*keyed, row])
    source = ""
    locked = ""
    if parents:
        locked = f"WITH {_locked(table, names, parents, row, 'NO KEY UPDATE')}\n"
        source, matched = " FROM locked", f"id = locked.of AND {matched}"
    text = f"{locked}UPDATE {quoted(table)} SET {_set(names)}{source} WHERE {matched} RETURNING {_list(record)}"
    return Changed(f"{table}.update", text, Shape("optional" if key else "one", record), table=table)


@lru_cache(_FORMS)
def update_many(table: str, names: tuple[str, ...], parents: Parents = (), *, keys: bool) -> Statement[int]:
    """Return the statement that sets `names` of the rows whose ids are the last parameter.

    They are locked first, in the order of ids, and as strongly as the UPDATE does: more for the columns of `keys`. So
    are the rows of `parents` that they will refer to: those of other tables before them, those of this one among them.
    """
    rows = f"id = ANY(${len(names) + 1}::uuid[])"
    locked = _locked(table, names, parents, rows, "UPDATE" if keys else "NO KEY UPDATE")
    text = f"WITH {locked}\nUPDATE {quoted(table)} SET {_set(names)} FROM locked WHERE id = locked.of AND {rows}"
    return Statement(f"{table}.update_many", text, Shape("one", int), table=table, certain=True)


@lru_cache(_FORMS)
def patch(table: str, record: Any, names: tuple[str, ...], removing: frozenset[str]) -> Statement[Any]:
    """Return the statement that merges documents into `names` of the row whose id is the last parameter.

    The keys to remove from a column of `removing` are the parameter after its document.
    """
    parts: list[str] = []
    number = 1
    for name in names:
        merged = f"jsonb_merge(coalesce({quoted(name)}, '{{}}'), ${number}::jsonb)"
        if name in removing:
            number += 1
            merged = f"jsonb_remove({merged}, ${number}::jsonb)"
        parts.append(f"{quoted(name)} = {merged}")
        number += 1
    text = f"UPDATE {quoted(table)} SET {', '.join(parts)} WHERE id = ${number} RETURNING {_list(record)}"
    return Changed(f"{table}.patch", text, Shape("one", record), table=table)


def check_id(value: Any, table: str) -> UUID:
    """Return `value` as an id. Raises `InvalidValue`."""
    return check(_ID, value, table=table)


@lru_cache(_FORMS)
def document(name: str) -> Column:
    """Return a column for what `patch` merges: any JSON object, whatever model the whole document has."""
    return Column(name, JsonObject, nullable=False, storage="jsonb")


def _list(record: Any) -> str:
    return ", ".join(map(quoted, columns(record)))


def _set(names: Sequence[str]) -> str:
    return ", ".join(f"{quoted(name)} = ${number}" for number, name in enumerate(names, start=1))


def _locked(table: str, names: Sequence[str], parents: Parents, rows: str, strength: str) -> str:
    """The CTEs that lock the rows of an UPDATE and its parents; the last is `locked`."""
    found = [f"id = ${names.index(parent.name) + 1}" for parent in parents if parent.table == table]
    others = [parent for parent in parents if parent.table != table]
    parts: list[str] = []
    for name, parent, stored, of_parent in others:
        ids = (
            f"IN (SELECT {quoted(name)} FROM {quoted(table)} WHERE {rows})" if stored else f"= ${names.index(name) + 1}"
        )
        parts.append(
            f"of_{name} AS MATERIALIZED (\n    SELECT count(*) FROM (SELECT FROM {quoted(parent)}"
            f" WHERE id {ids} ORDER BY id FOR {of_parent}) one\n)"
        )
    before = "".join(f" CROSS JOIN of_{parent.name}" for parent in others)
    parts.append(
        f"locked AS MATERIALIZED (\n    SELECT id AS of FROM {quoted(table)}{before}"
        f" WHERE {' OR '.join([rows, *found])} ORDER BY id FOR {strength} OF {quoted(table)}\n)"
    )
    return ", ".join(parts)


def _where(text: str) -> str:
    return f"\n WHERE {text}" if text else ""
