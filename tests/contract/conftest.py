"""The compiled path beside its reference: on the sync face, every read of this suite goes through the cursor too."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import pytest

from agent_storage.connection.rows import Codec
from agent_storage.statement import Statement
from agent_storage.sync import database
from agent_storage.sync.compiled.wire import Wire

#: What another look may answer differently: they say what time it is, or what others do meanwhile.
_VOLATILE = ("clock_timestamp", "now()", "random")

compared: set[str] = set()


@pytest.fixture(autouse=True)
def _compared_with_the_cursor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    over_the_wire = Wire.run

    def run(self: Any, statement: Statement[Any], values: Sequence[Any], codec: Codec) -> Any:
        found = over_the_wire(self, statement, values, codec)
        if not statement.writes and not any(word in statement.text for word in _VOLATILE):
            # Other threads of a test may write between two looks; what they saw alike once is enough.
            enough, looks = time.monotonic() + 5, [found]
            ways = cycle(
                (
                    lambda: database._fetch(self._connection, statement, values, codec),
                    lambda: over_the_wire(self, statement, values, codec),
                )
            )
            while len(looks) == 1 or looks[-1] != looks[-2]:
                assert time.monotonic() < enough, f"{statement.name}: {looks[-2:]}"
                looks.append(next(ways)())
            compared.add(statement.name)
        return found

    monkeypatch.setattr(Wire, "run", run)
    yield


@pytest.fixture(scope="session", autouse=True)
def _something_was_compared(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.config.args == ["tests"] and not request.session.testsfailed:
        assert len(compared) > 60, sorted(compared)
