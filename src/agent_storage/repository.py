"""`@sql` and `Repository`: the methods that every table has, themselves declared statements.

A repository is a class with a table's name and declared methods. The annotation of a method is its contract: parameters
bind by name, and the return annotation gives the shape of the result (`Found[R]`, `list[R]`, `R | None`, `R`, a scalar,
`AsyncIterator[R]`, `None`; `int` and `bool` count the rows affected where the statement returns none).
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    LiteralString,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
)
from uuid import UUID

import psycopg
import psycopg_pool

from agent_storage.database.batch import Batch
from agent_storage.database.pool import Database
from agent_storage.database.transaction import Attached, Isolation, Transaction
from agent_storage.errors import (
    AlreadyExists,
    AmbiguousId,
    InvalidTransition,
    InvalidValue,
    NotFound,
    Retryable,
    StorageError,
)
from agent_storage.statements import dynamic
from agent_storage.statements.codec import check, encode
from agent_storage.statements.declaration import Owner, Template
from agent_storage.statements.filters import EVERY, Condition, Fields, Joined, Parsed, named
from agent_storage.statements.ids import prefix_range, shortest_prefix, uuid7
from agent_storage.statements.lists import Counts, Found, Page, check_limit, check_offset
from agent_storage.statements.pagination import read_cursor
from agent_storage.statements.patching import check_removed, split
from agent_storage.statements.records import MAINTAINED, Input, JsonObject, Record, columns
from agent_storage.statements.statement import UNDIVIDED, Statement, with_id
from agent_storage.statements.where import Order, Where

# Both are covariant, so that type checkers accept a repository with a wider record in place of the shipped one. They do
# not see then that it takes its own `New…`.
R = TypeVar("R", bound=Record, covariant=True)
S = TypeVar("S", bound=Record)
N = TypeVar("N", bound=Input, covariant=True)
F = TypeVar("F", bound=Callable[..., Any])
V = TypeVar("V")

#: The result of a streaming method: `async with storage.messages.stream() as rows: async for row in rows: …`
Stream = AbstractAsyncContextManager[AsyncIterator[V]]

#: Rows with ids, made unless they exist: `made` and then `found`, in which both are. A row that exists is read after
#: INSERT has waited for the transaction that makes it. Rows are made in the order of their keys, or else of their ids,
#: so that calls with the same ones wait for each other and do not deadlock.
IDENTIFIED: Final = """
        WITH given ({new.columns}, "Item", "Nth") AS MATERIALIZED (
            SELECT {new.rows}, "Item", "Nth"
              FROM jsonb_array_elements(%(new)s) WITH ORDINALITY AS items ("Item", "Nth")
             CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, "Item")
        ), locked AS MATERIALIZED (
            SELECT {new.locks}
        ), made AS (
            INSERT INTO {table} ({new.columns}) SELECT {new.columns} FROM given CROSS JOIN locked ORDER BY {new.order}
            ON CONFLICT (id) DO NOTHING
            RETURNING *
        ), found AS (
            SELECT * FROM made
             UNION ALL
            SELECT present.*
              FROM (SELECT jsonb_agg("Item") AS "Items" FROM given WHERE id NOT IN (SELECT id FROM made)) AS others
             CROSS JOIN LATERAL rows_as_given(NULL::{table}, "Items", true) AS present
             WHERE "Items" IS NOT NULL
        )
"""

#: The SQLSTATE of a violated unique constraint.
_UNIQUE = "23505"
#: The methods that only a table with a natural key has.
_WITH_KEY = frozenset({"_insert_or_update", "_insert_unless_there", "_id_of"})
#: How often an upsert of a secret looks for the row that it changes. Each time another session has to have interfered.
_UPSERTS = 20
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
#: How many sets of fields the statements of one upsert are kept for.
_FORMS = 256


def sql(
    text: LiteralString,
    *,
    repeatable: bool = False,
    certain: bool = False,
    missing: LiteralString | None = None,
    chunked: bool = False,
    identified: LiteralString | Literal[True] | None = None,
) -> Callable[[F], F]:
    """Declare a method by its SQL; the method's body is `...`. See `declaration.py` for slots and placeholders.

    `repeatable`: running it twice does what running it once does (every plain SELECT), so it is sent again when its
    answer was lost. `certain`: the server gives a row or an error, so a batch may commit in the same round trip.
    `missing`: what `NotFound` says when there is no row; placeholders as in the text. `chunked`: it takes a sequence
    of `Input`s and nothing else, and gives a list; many rows are sent in chunks, all or nothing, unless the table
    `refers_to_itself`. `identified`: another text, for rows that have an id or times of the caller's, so that the call
    can be repeated; in it `%(new)s` is a JSON array, of an `Input` too. With True, the text is itself such a one.
    """
    options = {
        "repeatable": repeatable,
        "certain": certain,
        "missing": missing,
        "chunked": chunked,
        "identified": identified,
    }

    def declare(function: F) -> F:
        return cast(F, Declared(Template(function, text, options)))

    return declare


#: The classes that run a repository's statements.
Runner = Database | Transaction | Batch


class Declared:
    """The placeholder of `@sql` in a class body until the class is created."""

    def __init__(self, template: Template) -> None:
        self.template = template


def _method(template: Template, repository: type[Repository[Any, Any]]) -> Callable[..., Any]:
    """The method that runs `template` for one repository; its statement is compiled when first wanted."""

    @functools.lru_cache(_FORMS)
    def statement(given: frozenset[str] | None = None) -> Statement[Any]:
        return template.compile(repository.owner(), given)

    if template.depends_on:

        async def change(self: Repository[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
            arguments = template.arguments(args, kwargs)
            declared = statement(template.given(arguments))
            return await self.runner.run(declared, declared.encode(arguments, self.runner.codec))

        method: Callable[..., Any] = change
    elif template.streams:

        def stream(self: Repository[Any, Any], /, *args: Any, **kwargs: Any) -> Stream[Any]:
            values = statement().encode(template.arguments(args, kwargs), self.runner.codec)
            return self.runner.stream(statement(), values)

        method = stream
    else:

        async def run(self: Repository[Any, Any], /, *args: Any, **kwargs: Any) -> Any:
            runner, declared = self.runner, statement()
            arguments = template.arguments(args, kwargs)
            if declared.chunked:
                arguments = {name: list(rows) for name, rows in arguments.items()}
            again = False
            if declared.identified is not None:
                given = declared.identifies(arguments)
                again = given and isinstance(runner, Database)
                if given or declared.keyed:
                    declared = declared.identified
            if declared.chunked and _same_parents(repository.references, arguments.values()):
                if declared.ordered and not isinstance(runner, Batch):
                    return await _in_order(repository, runner, declared, arguments)
                return await runner.run_chunked(declared, arguments)
            values = declared.encode(arguments, runner.codec)
            if again:  # of two equal calls at once, one may meet the natural key of the other before its id
                try:
                    return await runner.run(declared, values)
                except AlreadyExists as error:
                    if error.sqlstate != _UNIQUE:
                        raise
            return await runner.run(declared, values)

        method = run
    functools.update_wrapper(method, template.function)
    vars(method).update(statement=statement, template=template)
    return method


def _same_parents(references: Mapping[str, str], given: Iterable[list[Any]]) -> bool:
    """Return whether all rows refer to the same ones. Else they are one statement, which locks those in one order."""
    return all(len({getattr(row, name, None) for row in rows}) < 2 for name in references for rows in given)


async def _in_order(
    repository: type[Repository[Any, Any]],
    runner: Database | Transaction,
    declared: Statement[Any],
    arguments: Mapping[str, list[Any]],
) -> list[Any]:
    """Send rows with ids, whose chunks have to be in the order in which the statement makes the rows of each.

    Return the results in the order given, which is that of ids made here, too.
    """
    ((name, rows),) = arguments.items()
    if len(rows) <= UNDIVIDED:
        return await runner.run_chunked(declared, arguments)
    rows = [with_id(row) if getattr(row, "id", row) is None else row for row in rows]
    fields = repository.insert_order or repository.natural_key or ("id",)
    places = sorted(range(len(rows)), key=lambda place: [str(getattr(rows[place], field, "")) for field in fields])
    made = await runner.run_chunked(declared, {name: [rows[place] for place in places]})
    return [row for _, row in sorted(zip(places, made, strict=True), key=lambda pair: pair[0])]


class Repository(Generic[R, N]):
    """A table's rows, typed. `R` is its record, `N` what a caller gives to make one."""

    table: ClassVar[str]
    #: The columns of a unique key other than the id; declares `upsert`.
    natural_key: ClassVar[tuple[str, ...]] = ()
    #: The fields by which `create_many` orders the rows that it makes: those of a unique key. Default: the natural key.
    insert_order: ClassVar[tuple[str, ...]] = ()
    #: Whether a row may refer to another one of the table. Then rows made together are one statement, however many, so
    #: that a child may stand before its parent.
    refers_to_itself: ClassVar[bool] = False
    #: The foreign keys of one column: the table whose id each refers to. `create_many` locks those rows in one order.
    references: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: The reference to a row that a trigger changes when an UPDATE sets a field, by that field. It is locked first.
    changes_parent: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: Fields of `New…` that never change: `update` and `patch` refuse them, and triggers do so in SQL.
    immutable: ClassVar[tuple[str, ...]] = ()
    #: A nullable timestamp column; rows that have it set are left out of every list unless a filter names it.
    soft_delete: ClassVar[str | None] = None
    record: ClassVar[type[Any]]
    new: ClassVar[type[Any]]

    def __init__(
        self,
        on: Repositories | Runner | psycopg_pool.AsyncConnectionPool[Any] | psycopg.AsyncConnection[Any],
    ) -> None:
        """Bind to a storage, a transaction, a batch (`Tickets(storage)`), or to your own pool or connection."""
        if isinstance(on, psycopg_pool.AsyncConnectionPool):
            self.runner: Runner = Database.over(on)
        elif isinstance(on, psycopg.AsyncConnection):
            self.runner = Attached(on)
        else:
            self.runner = on.runner if isinstance(on, Repositories) else on

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in vars(cls).get("__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Repository):
                cls.record, cls.new = (_bound(argument) for argument in get_args(base))
        _check_names(cls)
        own = {name for name, item in vars(cls).items() if isinstance(item, Declared)}
        for name, template in _templates(cls).items():
            method = _method(template, cls)
            setattr(cls, name, method)
            if name in own:
                vars(method)["statement"]()  # a wrong declaration fails here, when the class is made

    @classmethod
    def owner(cls) -> Owner:
        """Return what a declaration refers to: table, records, natural key."""
        types: dict[Any, Any] = {}
        for base in cls.__mro__:
            types |= zip(getattr(base, "__parameters__", ()), (cls.record, cls.new), strict=False)
        order = cls.insert_order or cls.natural_key
        return Owner(
            cls.table, cls.record, cls.new, cls.natural_key, order, cls.refers_to_itself, cls.references, types
        )

    @classmethod
    def statements(cls) -> dict[str, Statement[Any]]:
        """Return every declared statement of this repository by method name, its own first."""
        found = {name: item.statement() for name, item in vars(cls).items() if hasattr(item, "statement")}
        others = {f"{name}_identified": one.identified for name, one in found.items() if one.identified}
        return {**found, **others}

    @classmethod
    def fields(cls) -> Fields:
        """Return the fields that filters may name."""
        return Fields.of(cls.table, cls.record)

    @asynccontextmanager
    async def transaction(self, isolation: Isolation | None = None) -> AsyncGenerator[Self, None]:
        """Yield this repository on one transaction (a savepoint inside one), for logic of several statements."""
        async with self.runner.begin(isolation, name=self.table) as transaction:
            yield type(self)(transaction)

    # ---- create ----------------------------------------------------------------------------------------------------

    @sql(
        "INSERT INTO {table} ({new.columns}) VALUES ({new.values}) RETURNING {columns}",
        certain=True,
        identified=IDENTIFIED + "SELECT {columns} FROM found",
    )
    async def create(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Return the new row. With an `id` the call can be repeated: a row that exists as given is returned.

        Raises `AlreadyExists` for a row that differs in a field that was given, and for a natural key that is taken;
        `MissingReference` for a foreign key that points nowhere.
        """
        ...

    @sql(
        """
        INSERT INTO {table} ({new.columns})
        {new.source}
        RETURNING {columns}
        """,
        chunked=True,
        identified=IDENTIFIED + 'SELECT {found.columns} FROM given JOIN found USING (id) ORDER BY "Nth"',
    )
    async def create_many(self, new: Sequence[N]) -> list[R]:
        """Create rows, all or none. Return them in the order given. Rows with an `id` may exist, as for `create`.

        One round trip. More than a thousand of the same parents are sent in chunks, one while the server runs the one
        before, in a transaction that takes two round trips more. The server's time limit then holds for each chunk.
        """
        ...

    @sql(
        """
        INSERT INTO {table} ({new.columns}) VALUES ({new.values})
        ON CONFLICT ({key}) DO UPDATE SET {new.given}
        RETURNING {columns}
        """,
        certain=True,
    )
    async def _insert_or_update(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """The row with this natural key, made, or changed in the fields that were given to `new`."""
        ...

    @sql(
        """
        INSERT INTO {table} ({new.columns}) VALUES ({new.values})
        ON CONFLICT ({key}) DO NOTHING
        RETURNING {columns}
        """
    )
    async def _insert_unless_there(self, new: N) -> R | None:  # pyright: ignore[reportGeneralTypeIssues]
        """The new row, or None if there is one with this natural key."""
        ...

    @sql("SELECT id FROM {table} WHERE ({key}) = ({new.key})", repeatable=True)
    async def _id_of(self, new: N) -> UUID | None:  # pyright: ignore[reportGeneralTypeIssues]
        """The id of the row with this natural key, or None."""
        ...

    async def upsert(self, new: N) -> R:  # pyright: ignore[reportGeneralTypeIssues]
        """Create the row with this natural key, or change the fields that were given. Return the row.

        A field that was not given to `new` keeps its value in an existing row, and gets its default in a new one. The
        id and the creation time of an existing row stay. One round trip, or two for a secret, which is encrypted for
        its row's id.
        """
        if not self.natural_key:
            raise StorageError(f"{self.table} has no natural key: use create() or update()", table=self.table)
        if not isinstance(new, self.new):
            raise InvalidValue(f"{self.table}: give a {self.new.__name__}, not {type(new).__name__}", table=self.table)
        if not any(column.encrypted and getattr(new, name) is not None for name, column in columns(self.new).items()):
            return await self._insert_or_update(new)
        given = {name: getattr(new, name) for name in columns(self.new) if name in new.model_fields_set}
        changes = {name: value for name, value in given.items() if name not in {*MAINTAINED, *self.natural_key}}
        for _ in range(_UPSERTS):
            existing = await self._id_of(new)
            if existing is None:
                row = await self._insert_unless_there(new.model_copy(update={"id": new.id or uuid7()}))
            else:
                names, values = self._changes(changes, existing)
                statement = dynamic.update(self.table, self.record, names, key=self.natural_key)
                row = await self.runner.run(statement, [*values, *(given[key] for key in self.natural_key), existing])
            if row is not None:
                return row  # else another session has made it, deleted it or changed its key in between
        raise Retryable(f"{self.table}.upsert met another row with this key each time; run it again", table=self.table)

    # ---- read ------------------------------------------------------------------------------------------------------

    @sql("SELECT {columns} FROM {table} WHERE id = %(id)s", repeatable=True)
    async def get(self, id: UUID) -> R | None:
        """Return the row, or None."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE id = %(id)s", repeatable=True)
    async def require(self, id: UUID) -> R:
        """Return the row. Raises `NotFound`."""
        ...

    async def get_by(self, *args: Any, **key: Any) -> R | None:
        """Return the row with this natural key, given by its columns (`get_by(slug="main")`), or None.

        The shipped tables declare it with the types of their columns. Raises `InvalidValue` for other columns.
        """
        if args or key.keys() != set(self.natural_key):
            names = ", ".join(f"{name}=…" for name in self.natural_key)
            fault = f"takes {names}" if names else "needs a natural_key"
            raise InvalidValue(f"{self.table}.get_by {fault}", table=self.table)
        known = columns(self.record)
        values = [check(known[name], key[name], table=self.table) for name in self.natural_key]
        return await self.runner.run(dynamic.by_key(self.table, self.record, self.natural_key), values)

    @sql("SELECT EXISTS (SELECT FROM {table} WHERE id = %(id)s)", repeatable=True)
    async def exists(self, id: UUID) -> bool:
        """Return whether there is such a row."""
        ...

    @sql("SELECT {columns} FROM {table} WHERE id BETWEEN %(low)s AND %(high)s ORDER BY id LIMIT 11", repeatable=True)
    async def _between_ids(self, low: UUID, high: UUID) -> list[R]:
        """Up to eleven rows whose ids lie in a range, in order: one index range scan."""
        ...

    @sql(
        """
        SELECT (SELECT id FROM {table} WHERE id < %(id)s ORDER BY id DESC LIMIT 1) AS id
         UNION ALL
        SELECT (SELECT id FROM {table} WHERE id > %(id)s ORDER BY id LIMIT 1)
        """,
        repeatable=True,
    )
    async def _neighbours(self, id: UUID) -> list[UUID | None]:
        """The ids next to this one in key order; None at an end."""
        ...

    async def resolve(self, short_id: str | UUID) -> R:
        """Return the row for a full id or a prefix of it (4 digits and more, any case, with or without dashes).

        Raises `NotFound`, `AmbiguousId` with up to ten candidates, or `InvalidValue`. One round trip.
        """
        if isinstance(short_id, UUID):
            return await self.require(short_id)
        found = await self._between_ids(*prefix_range(short_id))
        if not found:
            raise NotFound(f"{self.table} has no row whose id begins with {short_id}", table=self.table)
        if len(found) > 1:
            ids = [row.id for row in found[:10]]
            listed = ", ".join(map(str, ids)) + (", …" if len(found) > len(ids) else "")
            raise AmbiguousId(f"{short_id} fits several {self.table}: {listed}", candidates=ids, table=self.table)
        return found[0]

    async def short_id(self, id: UUID) -> str:
        """Return the shortest prefix of at least 8 digits that no other row's id shares now."""
        return shortest_prefix(id, *await self._neighbours(id))

    async def find(
        self,
        where: Where | None = None,
        order_by: Order = "id",
        limit: int = 100,
        offset: int = 0,
        *,
        total: bool = False,
    ) -> Found[R]:
        """Return the rows that match, at most `limit`; `.more` is whether there are others.

        With `total=True`, `.total` is the number of all that match, from the same snapshot.
        Raises `InvalidValue` for an unknown field or operator (the known ones are listed) before any SQL exists.
        """
        order = self.fields().order(order_by)
        form, values = self._where(where)
        check_limit(limit, self.table, least=0)
        if offset < 0:
            raise InvalidValue(f"{self.table}: offset must not be negative", table=self.table, column="offset")
        statement = dynamic.select(self.table, self.record, form, order, total=total)
        return await self.runner.run(statement, [*values, limit + 1, offset])

    async def page(
        self,
        where: Where | None = None,
        order_by: Order = "id",
        limit: int = 100,
        cursor: str | None = None,
        *,
        total: bool = False,
    ) -> Page[R]:
        """Return one page by keyset: page 10,000 costs what page 1 does. Pass `next_cursor` back for the next one.

        Raises `InvalidValue` for a cursor that is damaged or was made for another table or order.
        """
        return await self._page_of(self.record, where, order_by, limit, cursor, total=total)

    async def _page_of(
        self,
        record: type[S],
        where: Where | None,
        order_by: Order,
        limit: int,
        cursor: str | None,
        *,
        total: bool,
        offset: int = 0,
    ) -> Page[S]:
        """`page` with fewer columns: `record` holds some of the fields of the table's own; filters may name all."""
        fields = self.fields()
        order = fields.order(order_by)
        form, values = self._where(where)
        check_limit(limit, self.table)
        check_offset(offset, cursor, self.table)
        keys = [] if cursor is None else read_cursor(cursor, order, fields)
        after = None if cursor is None else tuple(key is None for key in keys)
        statement = dynamic.page(self.table, self.record, form, order, after=after, total=total, made=cast(Any, record))
        return await self.runner.run(statement, [*values, *(key for key in keys if key is not None), limit + 1, offset])

    def stream(self, where: Where | None = None, order_by: Order = "id") -> Stream[R]:
        """Stream every row that matches, in bounded memory.

        `async with repository.stream() as rows: async for row in rows: …`. It holds a connection until its block ends.
        Inside a transaction it is a cursor on the transaction's connection.
        """
        form, values = self._where(where)
        order = self.fields().order(order_by)
        return self.runner.stream(dynamic.select(self.table, self.record, form, order, limited=False), values)

    async def count(self, where: Where | None = None) -> int:
        """Count the rows that match."""
        form, values = self._where(where)
        return await self.runner.run(dynamic.count(self.table, self.record, form), values)

    async def count_by(self, field: str, where: Where | None = None, limit: int = 100) -> Counts[Any]:
        """Count the rows that match for each value of a field, the most frequent first. One statement.

        A dict of the values; at most `limit`, and `.more` is whether there are others. None counts the nulls.
        """
        column = self.fields().sortable(field, "counted")
        form, values = self._where(where)
        check_limit(limit, self.table)
        return await self.runner.run(dynamic.count_by(self.table, self.record, column.name, form), [*values, limit + 1])

    # ---- change ----------------------------------------------------------------------------------------------------

    async def update(self, id: UUID, /, **changes: Any) -> R:
        """Change the given fields of the row, and return it. One statement.

        Raises `NotFound`, and `InvalidValue` for a field that the `New…` record lacks or a value that it refuses.
        """
        names, values = self._changes(changes, id)
        statement = dynamic.update(self.table, self.record, names, self._parents(names))
        return await self.runner.run(statement, [*values, dynamic.check_id(id, self.table)])

    async def update_many(self, ids: Sequence[UUID], changes: Mapping[str, Any]) -> int:
        """Change the same fields of several rows. Return how many there were.

        One statement, which locks the rows in the order of ids: concurrent calls do not deadlock.
        """
        names, values = self._changes(changes, None)
        checked = [dynamic.check_id(item, self.table) for item in ids]
        keys = not set(names).isdisjoint(self.natural_key)
        statement = dynamic.update_many(self.table, names, self._parents(names), keys=keys)
        return await self.runner.run(statement, [*values, checked])

    async def update_where(self, where: Where, changes: Mapping[str, Any]) -> int:
        """Change the same fields of the rows that match. Return how many there were. One statement.

        Raises `InvalidValue` for an empty filter, which would change the whole table.
        """
        names, values = self._changes(changes, None)
        form, matched = self._where(where, needed="update_where")
        keys = not set(names).isdisjoint(self.natural_key)
        statement = dynamic.update_where(self.table, self.record, names, form, self._parents(names), keys=keys)
        return await self.runner.run(statement, [*values, *matched])

    async def patch(self, id: UUID, /, **documents: JsonObject) -> R:
        """Merge into JSON columns on the server: objects merge to any depth, arrays and scalars replace, None is null.

        The value `REMOVE` removes its key. Other keys do not change, so two concurrent patches of different keys both
        survive. Raises `NotFound`, and `InvalidValue` for a document that the column's model refuses.
        """
        fields = self.fields()
        values: list[Any] = []
        removing: list[str] = []
        for name in sorted(documents):
            column, plain = fields.column(name), dynamic.document(name)
            if name in self.immutable:
                raise self._unchangeable(name)
            if not column.mergeable:
                raise InvalidValue(f"{self.table}.{name} is no JSON object; use update()", table=self.table)
            merged, removed = split(check(plain, documents[name], table=self.table))
            if column.document:  # what it would make of the row must be readable
                check(column, merged, table=self.table)
                check_removed(column, removed, table=self.table)
            values.append(encode(plain, merged, self.runner.codec, table=self.table))
            if removed:
                removing.append(name)
                values.append(encode(plain, removed, self.runner.codec, table=self.table))
        if not values:
            raise InvalidValue(f"{self.table}: nothing to patch", table=self.table)
        statement = dynamic.patch(self.table, self.record, tuple(sorted(documents)), frozenset(removing))
        return await self.runner.run(statement, [*values, dynamic.check_id(id, self.table)])

    @sql(
        """
        WITH locked AS MATERIALIZED (SELECT lock_for_delete('{table}', ARRAY[%(id)s::uuid]))
        DELETE FROM {table} USING locked WHERE id = %(id)s
        """,
        certain=True,
    )
    async def delete(self, id: UUID) -> bool:
        """Delete the row. Return whether there was one. Raises `StillReferenced` when other rows refer to it."""
        ...

    @sql(
        """
        WITH locked AS MATERIALIZED (SELECT lock_for_delete('{table}', %(ids)s))
        DELETE FROM {table} USING locked WHERE id = ANY(%(ids)s)
        """,
        certain=True,
    )
    async def delete_many(self, ids: list[UUID]) -> int:
        """Delete these rows, all or none. Return how many there were.

        These rows, and those that go or change with them, are locked in one order: concurrent calls do not deadlock.
        """
        ...

    async def delete_where(self, where: Where) -> int:
        """Delete the rows that match. Return how many there were. Rows are locked as by `delete_many`.

        Raises `InvalidValue` for an empty filter, which would empty the table.
        """
        form, values = self._where(where, needed="delete_where")
        return await self.runner.run(dynamic.delete(self.table, self.record, form), values)

    async def _accepted(self, row: R | None, id: UUID, change: str) -> R:
        """Return `row`, the result of a guarded change. Raises `NotFound`, else `InvalidTransition` with the status."""
        if row is not None:
            return row
        current: Any = await self.require(id)
        raise InvalidTransition(f"{self.table} {id} cannot {change}: its status is {current.status}", table=self.table)

    # ---- dynamic SQL -----------------------------------------------------------------------------------------------

    def _where(self, where: Where | None, *, needed: str | None = None) -> Parsed:
        """The filter's form and parameters. Raises `InvalidValue` for one that matches all if a method `needed` one."""
        form, values = parsed = self.fields().parse(where, self.runner.codec)
        if needed and form == EVERY:
            raise InvalidValue(f"{self.table}: {needed} needs a filter", table=self.table)
        if self.soft_delete and self.soft_delete not in named(form):
            listed = Condition(self.soft_delete, nested=False, operator="is_null")
            return Joined("and", (form, listed) if form != EVERY else (listed,)), values
        return parsed

    def _parents(self, names: Sequence[str]) -> dynamic.Parents:
        """The rows that an UPDATE of `names` locks first: those that it will refer to, and those that triggers change.

        `lock_for_delete` locks a parent before the rows that go with it, but after those that only lose it (which may
        be null): there an UPDATE that leaves the parent to the foreign key is in the same order.
        """
        known = columns(self.record)
        changed = {self.changes_parent[name] for name in names if name in self.changes_parent}
        return tuple(
            dynamic.Parent(name, table, name not in names, "NO KEY UPDATE" if name in changed else "KEY SHARE")
            for name, table in self.references.items()
            if name in changed or (name in names and (table == self.table or not known[name].nullable))
        )

    def _changes(self, changes: Mapping[str, Any], id_: UUID | None) -> tuple[tuple[str, ...], list[Any]]:
        """The names to set, sorted, and their parameters, each checked as the `New…` record would."""
        if not changes:
            raise InvalidValue(f"{self.table}: nothing to change", table=self.table)
        known = {
            name: column for name, column in columns(self.new).items() if name not in {*MAINTAINED, *self.immutable}
        }
        values: list[Any] = []
        for name in sorted(changes):
            if name not in known:
                raise self._unchangeable(name)
            value = check(known[name], changes[name], table=self.table)
            values.append(encode(known[name], value, self.runner.codec, table=self.table, id_=id_))
        return tuple(sorted(changes)), values

    def _unchangeable(self, name: str) -> InvalidValue:
        known = [field for field in columns(self.new) if field not in {*MAINTAINED, *self.immutable}]
        fields = f"fields are: {', '.join(known)}" if known else "the row never changes"
        return InvalidValue(f"{self.table}.{name[:60]} cannot be changed; {fields}", table=self.table)


class Repositories:
    """Attributes that are repositories, all on one runner; each is made when it is first used.

    A subclass declares its own by annotations, `customers: Customers`. One that replaces another is declared as a
    property, which type checkers let a subclass narrow: `@property def conversations(self) -> ShopConversations: ...`.
    """

    _repositories: ClassVar[Mapping[str, type[Repository[Any, Any]]]] = {}

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        frame = inspect.currentframe()
        local = frame.f_back.f_locals if frame and frame.f_back else {}  # a class may be declared in a function
        names = {**vars(sys.modules[cls.__module__]), **local}
        found: dict[str, type[Repository[Any, Any]]] = {}
        declared = dict(inspect.get_annotations(cls))
        for name, item in vars(cls).items():
            if isinstance(item, property) and item.fget is not None:
                declared[name] = inspect.get_annotations(item.fget).get("return")
        for name, annotation in declared.items():
            kind = _evaluated(annotation, names)
            if isinstance(kind, type) and issubclass(kind, Repository):
                found[name] = cast(type[Repository[Any, Any]], kind)
                if name in vars(cls):
                    delattr(cls, name)
        cls._repositories = {**cls._repositories, **found}

    def _on(self, runner: Runner) -> Self:
        """The same on another runner."""
        other = object.__new__(type(self))
        vars(other).update({name: value for name, value in vars(self).items() if name not in self._repositories})
        other.runner = runner
        return other

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._repositories})

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            repository = self._repositories.get(name)
            if repository is None:
                known = "" if name.startswith("_") else f"; tables are: {', '.join(self._repositories)}"
                raise AttributeError(f"{type(self).__name__} has no table {name!r}{known}")
            made = repository(self.runner)
            setattr(self, name, made)
            return made


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """The class that an annotation names; None for one that is known to the type checker alone."""
    if not isinstance(annotation, str):
        return get_origin(annotation) or annotation
    return names.get(annotation.partition("[")[0])


def _bound(argument: Any) -> Any:
    """The class that a repository is declared for: the default of a type variable, which subclasses may narrow."""
    return getattr(argument, "__default__", argument) if isinstance(argument, TypeVar) else argument


def _templates(repository: type[Repository[Any, Any]]) -> dict[str, Template]:
    """The declared statements of this class and of those that it extends."""
    found: dict[str, Template] = {}
    for base in reversed(repository.__mro__):
        for name, item in vars(base).items():
            template: Template | None = getattr(item, "template", None)
            if template is not None and (repository.natural_key or name not in _WITH_KEY):
                found[name] = template
            else:
                found.pop(name, None)
    return found


def _check_names(repository: type[Repository[Any, Any]]) -> None:
    """Table and column names stand in SQL text, quoted: they must be plain lower-case names."""
    names = [repository.table, *columns(repository.record), *repository.natural_key]
    if bad := [name for name in names if not _NAME.fullmatch(name)]:
        raise TypeError(f"{repository.__name__}: {bad[0]!r} is not a plain lower-case name")
    if missing := set(columns(repository.new)) - set(columns(repository.record)):
        raise TypeError(f"{repository.__name__}: {repository.record.__name__} lacks {', '.join(sorted(missing))}")
