"""A batch: calls that are asked for together and travel together, all or nothing.

The calls of a batch are collected, and sent when its block ends: all statements in one round trip, and, when a method
needs a second statement, the next ones of all methods in another. When nothing that comes back can still be refused
(every call is one statement that makes or lists rows), the commit travels with them; else it takes a round trip more,
after every method has accepted what it got.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, NamedTuple, TypeVar, cast

import psycopg

from agent_storage.compiled.parameters import Unsuitable
from agent_storage.compiled.prepared import GONE, Failed
from agent_storage.connection.listener import AsyncSignal
from agent_storage.errors import NotFound, Retryable, StorageError, translate
from agent_storage.statement import Statement

from .compiled.wire import Wire
from .database import Database, Isolation, Transaction, execute

T = TypeVar("T")


class Asked(NamedTuple):
    """A statement that a method wants to run."""

    statement: Statement[Any]
    values: Sequence[Any]


class _Paused(BaseException):
    """Ends a method where it asks for a statement whose answer is not there yet. No `except Exception` stops it."""


class Later(Generic[T]):
    """What a call of a batch will give."""

    def __init__(self, method: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._method = method
        self._declared = hasattr(method, "statement")
        self._args = args
        self._kwargs = kwargs
        self._value: list[T] = []
        self.asked: list[Asked] = []
        self.answers: list[Any] = []

    @property
    def result(self) -> T:
        """What the method returned. Raises `StorageError` before the batch was sent, or when it failed."""
        if not self._value:
            raise StorageError("the batch has not been sent: its results are there when its block has ended")
        return self._value[0]

    @property
    def certain(self) -> bool:
        """Whether it is one declared statement whose answer nobody can refuse."""
        return self._declared and self.asked[0].statement.always_answers

    async def run(self) -> bool:
        """Run the method, from the start, up to the first statement without an answer; whether it has returned.

        A declared method returns what its statement gives, so it need not be run again.
        """
        if self._declared and self.answers:
            (answer,) = self.answers
            if isinstance(answer, StorageError):
                raise answer
            self._value = [answer]
            return True
        try:
            self._value = [await self._method(*self._args, **self._kwargs)]
        except _Paused:
            return False
        return True

    def drop(self) -> None:
        """The batch has failed: there is no result."""
        self._value, self.asked, self.answers = [], [], []


class Batch:
    """The runner of a batch's repositories: it gives the answers that are there, and notes what is asked besides."""

    def __init__(self, runner: Database | Transaction) -> None:
        self._runner = runner
        self.codec = runner.codec
        self._calls: list[Later[Any]] = []
        self._current: Later[Any] | None = None
        self._at = 0
        self._sent = False

    def add(self, method: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Later[T]:
        """Note a call."""
        if self._sent:
            raise StorageError("the batch has been sent; begin another one")
        runner = getattr(getattr(method, "__self__", None), "runner", None)
        if runner is not self:
            raise StorageError(
                "add() takes a method of the batch's own repositories: batch.add(batch.messages.append, …)"
            )
        # A method may be called more than once, and an iterator gives its items once.
        args = tuple(list(cast(Any, value)) if isinstance(value, Iterator) else value for value in args)
        later = Later(method, args, kwargs)
        self._calls.append(later)
        return later

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> T:
        """The answer, if it is there."""
        call, at = self._current, self._at
        if call is None:
            raise StorageError("in a batch, say batch.add(batch.messages.append, …) instead of calling the method")
        self._at += 1
        if at == len(call.answers):
            call.asked.append(Asked(statement, values))
            raise _Paused
        if call.asked[at] != (statement, values):
            raise StorageError(f"{statement.name} cannot be batched: its method does not ask for the same each time")
        answer = call.answers[at]
        if isinstance(answer, StorageError):
            raise answer
        return answer

    async def run_divided(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """The answer, if it is there; undivided, since a batch is sent at once."""
        return await self.run(statement, statement.encode(arguments, self.codec))

    def stream(self, statement: Statement[Any], values: Sequence[Any]) -> AsyncIterator[Any]:
        """Refused."""
        raise StorageError("a stream cannot be batched")

    def begin(
        self, isolation: Isolation | None = None, *, read_only: bool = False, name: str | None = None
    ) -> AbstractAsyncContextManager[Transaction]:
        """Refused."""
        raise StorageError("this method opens a transaction of its own and cannot be batched: use transaction()")

    def listen(self, channel: str, payload: str) -> AsyncSignal:
        """Refused."""
        raise StorageError("waiting for others cannot be batched")

    async def send(self) -> None:
        """Run all calls. Raises the first error, and then nothing of the batch is kept."""
        self._sent = True
        tries = 0 if isinstance(self._runner, Transaction) else self._runner.settings.pool_max
        while True:
            try:
                await self._send(await self._advance(self._calls))
            except BaseException as error:
                self._drop()
                if not tries or not isinstance(error, Retryable) or error.sqlstate not in GONE:
                    raise
                tries -= 1  # each connection has to prepare its statements anew
            else:
                return

    def _drop(self) -> None:
        for call in self._calls:
            call.drop()

    async def _advance(self, calls: Sequence[Later[Any]]) -> list[Later[Any]]:
        """Let each method run on; those that ask for a statement."""
        waiting: list[Later[Any]] = []
        for call in calls:
            self._current, self._at = call, 0
            try:
                if not await call.run():
                    waiting.append(call)
            finally:
                self._current = None
        return waiting

    async def _send(self, waiting: list[Later[Any]]) -> None:
        if not waiting:
            return
        if isinstance(self._runner, Transaction):
            await self._runner.check_free()
            await self._waves(self._runner.connection, waiting, begin=False)
            return
        async with self._runner.connection() as connection:
            if all(call.certain for call in waiting) and getattr(connection, "wire", None) is not None:
                await self._waves(connection, waiting, begin=False)
                return
            try:
                await self._waves(connection, waiting, begin=True)
            except BaseException:
                if not connection.closed:
                    await connection.rollback()
                raise
            try:
                await connection.commit()
            except psycopg.Error as error:
                raise translate(error, statement="batch", writes=True) from error

    async def _waves(self, connection: psycopg.AsyncConnection[Any], waiting: list[Later[Any]], *, begin: bool) -> None:
        """Statements of all methods, then the next ones of those that want more, until every method has returned."""
        while waiting:
            await self._wave(connection, waiting, begin=begin)
            begin = False
            waiting = await self._advance(waiting)

    async def _wave(
        self, connection: psycopg.AsyncConnection[Any], calls: Sequence[Later[Any]], *, begin: bool
    ) -> None:
        wire: Wire | None = getattr(connection, "wire", None)
        if wire is not None:
            asked = [call.asked[-1] for call in calls]
            try:
                answers = await wire.run_all(asked, begin=begin)
            except Failed as failed:
                raise _translated(failed.error, asked[failed.place].statement) from failed.error
            except psycopg.Error as error:
                written = next((one.statement for one in asked if one.statement.writes), asked[0].statement)
                committing = not begin and isinstance(self._runner, Database)
                raise _translated(error, written, writes=committing and written.writes) from error
            except Unsuitable:
                pass
            else:
                for call, (prepared, answer) in zip(calls, answers, strict=True):
                    statement = call.asked[-1].statement
                    call.answers.append(_accepted(lambda p=prepared, s=statement, a=answer: p.result(s, a, self.codec)))
                return
        if begin:
            await connection.execute("BEGIN")
        for call in calls:
            statement, values = call.asked[-1]
            try:
                call.answers.append(await execute(connection, statement, values, self.codec))
            except NotFound as error:
                call.answers.append(error)
            except psycopg.Error as error:
                raise _translated(error, statement) from error


def _translated(error: psycopg.Error, statement: Statement[Any], *, writes: bool = False) -> StorageError:
    return translate(error, statement=statement.name, table=statement.table, writes=writes)


def _accepted(make: Callable[[], Any]) -> Any:
    """The statement's result; that a row is missing is for the method to say."""
    try:
        return make()
    except NotFound as error:
        return error
