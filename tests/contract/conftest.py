"""The compiled path beside its reference: on the sync face, every read of this suite goes through the cursor too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
            looks = [found]
            for _ in range(5):
                looks.append(database._fetch(self._connection, statement, values, codec))
                if looks[-1] == looks[-2]:
                    break
                looks.append(over_the_wire(self, statement, values, codec))
                if looks[-1] == looks[-2]:
                    break
            else:
                raise AssertionError(f"{statement.name}: {looks}")
            compared.add(statement.name)
        return found

    monkeypatch.setattr(Wire, "run", run)
    yield


@pytest.fixture(scope="session", autouse=True)
def _something_was_compared(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.config.args == ["tests"] and not request.session.testsfailed:
        assert len(compared) > 60, sorted(compared)
