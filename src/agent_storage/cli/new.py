"""`storage new`: files to start from."""

# Typer's option functions are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Annotated

import typer

from agent_storage.cli.context import AsJson, errors, group, own_source, shown_path, taught, to_json

app = group("new", "Write the files of a new table in your source.")


@app.command(
    epilog=taught(
        "storage new table customers email:key name:text?",
        "storage new table orders customer_id:customers total:money --domain sales",
        codes=(0, 1, 2, 130),
    )
)
def table(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the table: a plural, as order_lines.")],
    columns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COLUMN:KIND]...",
            help="Columns. KIND is text, key (1 to 500 characters), integer, bigint, numeric, money, boolean, date, "
            "timestamptz, uuid, jsonb, or a table whose id it refers to. A ? at the end admits NULL.",
        ),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="The group of the table: tables/DOMAIN/NAME/.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="CLASS", help="The class of a row. Default: the singular of NAME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write schema.sql, record.py and repository.py of a table, and its migration, in your source.

    The source is that of [tool.agent-storage] in pyproject.toml. Nothing is applied: the database is not needed.
    """
    from agent_storage.maintenance.scaffold import new_table

    with errors():
        configuration, source = own_source()
        made = new_table(configuration.sources, source, name, columns or (), domain=domain, record=record)
    if as_json:
        typer.echo(to_json(made))
        return
    for path in made.files:
        typer.echo(f"wrote {shown_path(path)}")
    typer.echo(f"""next:
  1. read them; what you change in schema.sql, change in record.py and in the migration, too
  2. storage migrate up
  3. storage check
  4. declare it in your Storage:  from {made.module} import {made.repository}
                                  class App(Storage):
                                      {name}: {made.repository}""")
