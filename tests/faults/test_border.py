"""No error of the driver leaves the package: every public method is called under each fault."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from agent_storage import Storage, StorageError, Unavailable, sync
from agent_storage.adapters.checkpoints import PostgresCheckpoints
from agent_storage.adapters.workflow import WorkflowStorage
from agent_storage.sync.tables import REPOSITORIES

from ..database.test_storm import done, entered
from ..rows import Factory
from .proxy import Proxy

#: A run of all tests takes every third method; STORAGE_BORDER=all takes all of them.
EVERY = 1 if os.environ.get("STORAGE_BORDER") == "all" else 3

FAULTS: dict[str, Callable[[Proxy], None]] = {
    "none": lambda _: None,
    "the answer is lost": lambda proxy: proxy.cut(answers=0, reset=True),
    "the answer is cut": lambda proxy: proxy.cut(answers=40),
    "the request is cut": lambda proxy: proxy.cut(requests=30, reset=True),
    "the connection is half closed": lambda proxy: proxy.half_close(),
    "the connection is reset": lambda proxy: proxy.reset(),
    "the server refuses": lambda proxy: proxy.down(),
}
#: Methods that never end, or only without a fault.
ENDLESS = ("follow", "wait", "wait_any", "ask_and_wait")
#: Not calls to the database.
NOT_CALLS = ("runner", "codec", "transaction", "autonomous")
#: By the beginning of a parameter's annotation.
SIMPLE: list[tuple[str, Callable[[], Any]]] = [
    ("list[UUID]", lambda: [uuid4()]), ("Sequence[UUID]", lambda: [uuid4()]), ("UUID", uuid4),
    ("str", lambda: str(uuid4())), ("Key", lambda: "x"), ("Content", lambda: "text"), ("Role", lambda: "user"),
    ("int", lambda: 1), ("Count", lambda: 1), ("float", lambda: 0.1), ("bool", lambda: True),
    ("Money", lambda: Decimal(1)), ("Decimal", lambda: Decimal(1)), ("datetime", lambda: datetime.now(UTC)),
    ("timedelta", lambda: None), ("Where", dict), ("Json", dict), ("Mapping", dict), ("dict", dict),
]  # fmt: skip


def given(factory: Factory, table: str, method: Any) -> tuple[list[Any], dict[str, Any]] | None:
    """The required arguments of a method, by the annotations; None where one is not known here."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, one in inspect.signature(method).parameters.items():
        kind = str(one.annotation)
        if one.kind is one.VAR_KEYWORD or one.default is not one.empty:
            continue
        if one.kind is one.VAR_POSITIONAL:
            continue
        if kind in ("N", "Sequence[N]", "list[N]", "NewCheckpoint", "I") or kind.startswith("New"):
            new = factory.new(table, next(factory.numbers))  # type: ignore[attr-defined]
            value = new if "[" not in kind else [new]
        elif name == "field":
            value = "id"
        else:
            made = [make for prefix, make in SIMPLE if kind.startswith(prefix)]
            if not made:
                return None
            value = made[0]()
        if name in ("id", "conversation_id") and factory.ids.get(table):
            value = factory.ids[table][0]
        if one.kind is one.KEYWORD_ONLY:
            kwargs[name] = value
        else:
            args.append(value)
    if method.__name__ in ("update", "patch"):
        new = factory.new(table, next(factory.numbers))  # type: ignore[attr-defined]
        kwargs = {name: value for name, value in new.model_dump().items() if name in ("data", "metadata", "content")}
    return args, kwargs


def calls(factory: Factory, storage: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every public method of the repositories and adapters, with arguments."""
    owners: list[tuple[str, Any]] = [(table, getattr(storage, table)) for table in REPOSITORIES]
    if isinstance(storage, Storage):
        owners += [("checkpoints", PostgresCheckpoints(storage)), ("workflows", WorkflowStorage(storage))]
    for table, owner in owners:
        for name, method in inspect.getmembers(owner, inspect.isroutine):
            if name.startswith("_") or name in NOT_CALLS or name in ENDLESS:
                continue
            found = given(factory, table, method)
            if found is None or inspect.isclass(getattr(type(owner), name, None)):
                continue
            args, kwargs = found

            def call(method: Any = method, args: Any = args, kwargs: Any = kwargs) -> Any:
                return method(*args, **kwargs)

            yield f"{type(owner).__name__}.{name}", call


async def used(call: Callable[[], Any]) -> None:
    """Await, or enter and read one, whichever the method gives."""
    result = call()
    if hasattr(result, "__aenter__") or hasattr(result, "__enter__"):
        async with entered(result) as rows:
            if hasattr(rows, "__aiter__"):
                async for _ in rows:
                    break
            elif isinstance(rows, Iterable):
                for _ in rows:
                    break
    else:
        await done(result)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", ["shared", "sync"])
async def test_every_method_raises_only_the_packages_errors(migrated: str, path: str, fault: str) -> None:
    every = 10 if fault == "the server refuses" else 1  # after each the pool takes half a second to connect again
    every *= EVERY
    first = list(FAULTS).index(fault) % EVERY  # so that together the faults meet every method
    told = Counter[str]()
    strange: list[str] = []
    with Proxy(migrated) as proxy, sync.Storage(migrated) as direct:
        factory = Factory(direct, 1)
        factory.fill(3)
        factory.numbers = iter(range(1000, 10**6))  # type: ignore[attr-defined]
        limits: dict[str, Any] = {"pool_timeout": 5.0 if fault != "the server refuses" else 0.05}

        async def walk(storage: Any) -> None:
            for number, (name, call) in enumerate(calls(factory, storage)):
                if number % every != first:
                    continue
                if not proxy._listening:
                    proxy.up()
                await _until_it_answers(storage)
                FAULTS[fault](proxy)
                try:
                    async with asyncio.timeout(20):
                        await used(call)
                    told["returned"] += 1
                except StorageError as error:
                    told[type(error).__name__] += 1
                except Exception as error:
                    strange.append(f"{name}: {type(error).__module__}.{type(error).__name__}: {error}")
                proxy.cut()

        if path == "sync":
            with sync.Storage(proxy.conninfo, pool_max=2, **limits) as storage:
                await walk(storage)
        else:
            async with Storage(proxy.conninfo, pool_max=2, multiplex=1, **limits) as storage:
                await walk(storage)
    assert strange == []
    assert told.total() > 250 // every
    if fault not in ("none", "the connection is half closed", "the connection is reset"):
        lost = sum(told[name] for name in ("ConnectionLost", "OutcomeUnknown", "PoolTimeout", "Unavailable"))
        assert lost > 100 // every, told


async def _until_it_answers(storage: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await done(storage.boards.count())
                return
            except Unavailable:
                await asyncio.sleep(0.01)
