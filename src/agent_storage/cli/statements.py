"""`storage sql`: the declared statements, as they are sent."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent_storage.cli.context import AsJson, Db, errors, opened, taught, to_json

app = typer.Typer(add_completion=False)


def _names() -> list[str]:
    """Return the names that the shell may complete."""
    from agent_storage.errors import StorageError

    try:
        tables, statements = _known()
    except StorageError:  # a module of a source cannot be imported; the command says so
        return []
    return [*tables, *statements]


def _known() -> tuple[list[str], dict[str, Any]]:
    """Return the tables of the configured sources, and their declared statements by name."""
    from agent_storage.maintenance.registry import by_table
    from agent_storage.sources import configured

    found = by_table(configured().sources)
    every = (item for one in found.values() for item in one.repository.statements().values())
    return list(found), {item.name: item for item in every}


@app.command(
    epilog=taught(
        "storage sql",
        "storage sql messages",
        "storage sql messages.latest",
        "storage sql messages.latest --explain",
        codes=(0, 1, 2, 8, 130),
    )
)
def sql(
    name: Annotated[
        str | None, typer.Argument(help="A statement (messages.latest) or a table (messages).", autocompletion=_names)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show PostgreSQL's plan. The statement is not run.")
    ] = False,
    as_json: AsJson = False,
    db: Db = None,
) -> None:
    """List the declared statements, show one as it is sent, or explain its plan.

    Your own repositories are included. A repository that extends a shipped one replaces it.
    """
    with errors():
        found = _find(name)
    if explain:
        if len(found) != 1:
            raise typer.BadParameter("takes one statement, such as messages.latest", param_hint="--explain")
        typer.echo(_plan(db, *found.values()))
    elif as_json:
        typer.echo(to_json({key: statement.text for key, statement in found.items()}))
    elif len(found) == 1:
        typer.echo(next(iter(found.values())).text)
    else:
        _list(found)


def _find(name: str | None) -> dict[str, Any]:
    from agent_storage.errors import NotFound

    tables, known = _known()
    found = {key: item for key, item in known.items() if name in (None, key, item.table)}
    if not found:
        import difflib

        near = difflib.get_close_matches(str(name), [*known, *tables], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise NotFound(f"no declared statement or table is named {name}{hint} (`storage sql` lists them)")
    return found


def _list(found: dict[str, Any]) -> None:
    width = max(map(len, found))
    for key, statement in found.items():
        parameters = ", ".join(parameter.name for parameter in statement.parameters)
        typer.echo(f"{key.ljust(width)}  {'repeatable' if statement.repeatable else '':10}  ({parameters})")


def _plan(db: str | None, statement: Any) -> str:
    """The generic plan of the statement, whose parameters are not known; it is prepared and never run."""
    nulls = ", ".join(["NULL"] * len(statement.parameters))
    explain = f"EXPLAIN EXECUTE storage_explain{f'({nulls})' if nulls else ''}"
    with opened(db) as storage, storage.connection() as connection, connection.transaction():
        connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        connection.execute(b"PREPARE storage_explain AS " + statement.query, prepare=False)
        rows = connection.execute(explain.encode(), prepare=False).fetchall()
        connection.execute("DEALLOCATE storage_explain", prepare=False)
    return "\n".join(str(row[0]) for row in rows)
