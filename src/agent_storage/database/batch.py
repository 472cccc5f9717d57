"""A batch: calls that are asked for together and travel together, all or nothing.

A call of a batch is one declared statement: its arguments are checked and encoded when it is added, its result is made
when the batch has been sent. All statements travel in one round trip. When an answer can still be refused (a row that
has to be there is missing), COMMIT takes a second one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from agent_storage.database.calls import run_at_once
from agent_storage.database.pool import Database
from agent_storage.database.transaction import Transaction
from agent_storage.errors import StorageError
from agent_storage.statements.statement import Statement

T = TypeVar("T")


class Later(Generic[T]):
    """The result of a call, once its batch has been sent."""

    def __init__(self, statement: Statement[T], values: Sequence[Any]) -> None:
        self.asked = (statement, values)
        self._result: list[T] = []

    @property
    def result(self) -> T:
        """The result of the method. Raises `StorageError` before the batch was sent, or if it failed."""
        if not self._result:
            raise StorageError("the batch has not been sent, or it failed: results are there when its block has ended")
        return self._result[0]

    def settle(self, result: T) -> None:
        """Set the result."""
        self._result = [result]


class Batch:
    """The runner of a batch's repositories: it keeps the statement of each call, and sends all of them together."""

    def __init__(self, runner: Database | Transaction) -> None:
        self._runner = runner
        self.codec = runner.codec
        self._calls: list[Later[Any]] = []
        self._adding = False
        self._sent = False

    def add(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Later[Any]:
        """Keep a call. Raises the error of a refused argument, and `StorageError` for more than one statement."""
        if self._sent:
            raise StorageError("the batch has been sent; begin another one")
        owner = getattr(method, "__self__", None)
        if getattr(owner, "runner", None) is not self:
            raise StorageError(
                "add() takes a method of the batch's own repositories: batch.add(batch.messages.append, …)"
            )
        before = len(self._calls)
        self._adding = True
        try:
            later = run_at_once(method, args, kwargs)
        except (TypeError, AttributeError) as error:
            if len(self._calls) == before:
                raise
            del self._calls[before:]
            raise self._not_one(method) from error
        finally:
            self._adding = False
        if self._calls[before:] != [later]:
            del self._calls[before:]
            raise self._not_one(method)
        return later

    def _not_one(self, method: Any) -> StorageError:
        name = f"{getattr(getattr(method, '__self__', None), 'table', '?')}.{getattr(method, '__name__', '?')}"
        return StorageError(f"{name} cannot be batched: it is not just one statement; use transaction()")

    async def run(self, statement: Statement[T], values: Sequence[Any]) -> Any:
        """Keep the statement of the call that is being added."""
        if not self._adding:
            raise StorageError("in a batch, say batch.add(batch.messages.append, …) instead of calling the method")
        # Lists are encoded when the batch is sent; what is put into them until then is not of this call.
        later = Later(statement, [list(cast(list[Any], one)) if type(one) is list else one for one in values])
        self._calls.append(later)
        return later

    async def run_chunked(self, statement: Statement[Any], arguments: Mapping[str, Any]) -> Any:
        """Keep a chunked statement as `run` does, in one part, since a batch is sent at once."""
        return await self.run(statement, statement.encode(arguments, self.codec))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise StorageError("a stream cannot be batched, nor can a method that begins a transaction or waits")

    stream = begin = listen = _refuse

    async def send(self) -> None:
        """Run all calls. Raises the first error, and then nothing of the batch is kept, unless the error says so."""
        self._sent = True
        if not self._calls:
            return
        results = await self._runner.run_all([call.asked for call in self._calls])
        for call, result in zip(self._calls, results, strict=True):
            if not isinstance(result, StorageError):
                call.settle(result)
        for result in results:
            if isinstance(result, StorageError):
                raise result
