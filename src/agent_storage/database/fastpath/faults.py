"""Errors among the server's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from agent_storage.errors import OutcomeUnknown

#: The function of PostgreSQL that waits for a synchronous standby, and reports that the wait was cancelled.
_STANDBY = "SyncRepWaitForLSN"
#: The statuses of a successful reply.
FINE = frozenset({ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC})
#: PostgreSQL's codes for a prepared statement that is gone, and for one whose columns have changed with the schema.
_GONE = ("26000", "0A000")


def is_stale(error: psycopg.Error) -> bool:
    """Return whether `error` was raised while the server validated a prepared statement, before it ran.

    The error names the function in PostgreSQL's source. A changed type is reported as an error of class 42 (undefined
    function) with a position in the statement's text, which errors at run time do not have. An error with a context
    comes from a function that the statement called.
    """
    diag, state = error.diag, error.sqlstate or ""
    if diag.context or not state:
        return False
    if state in _GONE:
        return diag.source_function in ("FetchPreparedStatement", "RevalidateCachedQuery")
    return state.startswith("42") and state not in ("42501", "42601") and diag.statement_position is not None


def fault_in(answers: Sequence[PGresult], statements: int = 1) -> tuple[int, psycopg.Error] | None:
    """Return the first error among the `answers` to a number of statements, with its place, or None.

    A server that ends the session after it has answered all of them may have committed or not. Then the error has no
    SQLSTATE, like that of a connection that is lost without a message.
    """
    for place, answer in enumerate(answers):
        if answer.status not in FINE:
            if place >= statements and answer.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in (
                b"FATAL",
                b"PANIC",
            ):
                return place, psycopg.OperationalError("the server ended the session before it confirmed the commit")
            return place, error_from_result(answer)
    return None


def checked(answers: Sequence[PGresult]) -> PGresult:
    """Return the last answer. Raises psycopg's error for the first that is one."""
    if len(answers) == 1 and answers[0].status in FINE:
        return answers[0]
    if fault := fault_in(answers):
        raise fault[1]
    return answers[-1]


class Standby:
    """Detects a commit that a synchronous standby may lack, because its wait was cancelled.

    PostgreSQL then sends a warning and reports success. The commit is kept here, and lost in a failover.
    """

    def __init__(self, connection: psycopg.BaseConnection[Any]) -> None:
        self.skipped = False
        connection.add_notice_handler(self._notice)

    def _notice(self, diag: psycopg.errors.Diagnostic) -> None:
        if diag.source_function == _STANDBY:
            self.skipped = True

    def fault(self, name: str) -> OutcomeUnknown:
        """Return the error of the commit that was just confirmed, by the statement or transaction `name`."""
        self.skipped = False
        return OutcomeUnknown(
            f"{name} is committed on the primary, but the wait for a synchronous standby was cancelled: the change is "
            "lost if the primary fails before the standby has it; read back before repeating",
            statement=name,
        )
