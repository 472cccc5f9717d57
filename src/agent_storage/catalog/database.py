"""Objects of the database rather than of a schema: schemas, extensions, publications, foreign servers."""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import DraftEntry, Family, Row
from agent_storage.catalog.scope import options, own, role

_SCHEMAS: LiteralString = f"""
    SELECT n.oid, quote_ident(n.nspname) AS name, {role("n.nspowner")} AS owner
      FROM pg_namespace n
     WHERE n.oid = ANY (%(schemas)s)
       AND {own("pg_namespace", "n.oid")}
"""


def _schemas(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        draft = _named(row, "schema", address.NAMESPACE, f"CREATE SCHEMA {row['name']};")
        draft.grant_on = draft.on
        yield draft


def _named(row: Row, kind: str, catalog: int, create: str) -> DraftEntry:
    what = f"{kind.upper()} {row['name']}"
    draft = DraftEntry(
        kind=kind,
        name=row["name"],
        address=(catalog, row["oid"], 0),
        create=create,
        drop=f"DROP {kind.upper()} IF EXISTS {row['name']};",
        on=what,
    )
    if row.get("owner"):
        draft.owned(row["owner"], what)
    return draft


# Members of an extension are not read, only its existence, schema and version.
_EXTENSIONS: LiteralString = """
    SELECT x.oid, quote_ident(x.extname) AS name, quote_ident(n.nspname) AS schema, x.extrelocatable AS relocatable,
           quote_literal(x.extversion) AS literal, x.extversion AS version
      FROM pg_extension x
      JOIN pg_namespace n ON n.oid = x.extnamespace
"""


def _extensions(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        name, version, schema = row["name"], row["literal"], row["schema"]
        create = f"CREATE EXTENSION {name} WITH SCHEMA {schema} VERSION {version};"
        draft = _named(row, "extension", address.EXTENSION, create)
        draft.add("version", row["version"], set=f"ALTER EXTENSION {name} UPDATE TO {version};", inline=True)
        # An extension that is not relocatable keeps its schema until it is recreated.
        move = f"ALTER EXTENSION {name} SET SCHEMA {schema};" if row["relocatable"] else None
        draft.add("schema", schema, set=move, inline=True)
        yield draft


# FOR TABLES IN SCHEMA keeps its schemas in a catalog that 14 does not have, so they are read from pg_depend, which is
# the same in all versions.
def _publications_query(column_list: LiteralString, row_filter: LiteralString) -> LiteralString:
    return f"""
    SELECT p.oid, quote_ident(p.pubname) AS name, p.puballtables AS everything, p.pubviaroot AS via_root,
           concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
                     CASE WHEN p.pubdelete THEN 'delete' END,
                     CASE WHEN p.pubtruncate THEN 'truncate' END) AS operations,
           CASE to_jsonb(p) ->> 'pubgencols' WHEN 's' THEN 'stored' END AS generated,
           {role("p.pubowner")} AS owner,
           (SELECT jsonb_object_agg(r.prrelid::regclass::text,
                       concat(' (' || {column_list} || ')', ' WHERE ' || {row_filter}))
              FROM pg_publication_rel r
             WHERE r.prpubid = p.oid) AS tables,
           ARRAY(SELECT quote_ident(n.nspname)
                   FROM pg_depend d
                   JOIN pg_depend s ON s.classid = d.classid AND s.objid = d.objid
                   JOIN pg_namespace n ON n.oid = s.refobjid
                  WHERE d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
                    AND s.refclassid = 'pg_namespace'::regclass
                  ORDER BY n.nspname) AS schemas
      FROM pg_publication p
     WHERE {own("pg_publication", "p.oid")}
"""


_COLUMN_LIST: LiteralString = """
    (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname)
       FROM pg_attribute
      WHERE attrelid = r.prrelid AND attnum = ANY (r.prattrs))"""
_ROW_FILTER: LiteralString = "pg_get_expr(r.prqual, r.prrelid)"


def _publications(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        name = row["name"]
        alter = f"ALTER PUBLICATION {name}"
        for_ = " FOR ALL TABLES" if row["everything"] else ""
        draft = _named(row, "publication", address.PUBLICATION, f"CREATE PUBLICATION {name}{for_};")
        draft.add("all tables", "yes" if row["everything"] else None, inline=True)
        for option, value in _publication_options(row).items():
            draft.add(option, value, set=f"{alter} SET ({option} = '{value}');")
        tables: dict[str, str] = row["tables"] or {}
        for table, rest in sorted(tables.items()):
            add, drop = f"{alter} ADD TABLE {table}{rest};", f"{alter} DROP TABLE {table};"
            draft.add(f"table {table}", rest.strip() or "yes", set=add, change=f"{drop}\n{add}", reset=drop)
        for schema in row["schemas"]:
            add, drop = f"{alter} ADD TABLES IN SCHEMA {schema};", f"{alter} DROP TABLES IN SCHEMA {schema};"
            draft.add(f"schema {schema}", "yes", set=add, reset=drop)
        yield draft


def _publication_options(row: Row) -> dict[str, str]:
    values = {"publish": row["operations"], "publish_via_partition_root": "true" if row["via_root"] else "false"}
    return {**values, "publish_generated_columns": row["generated"]} if row["generated"] else values


_SERVERS: LiteralString = f"""
    SELECT s.oid, quote_ident(s.srvname) AS name, quote_ident(w.fdwname) AS wrapper, {role("s.srvowner")} AS owner,
           quote_literal(s.srvtype) AS type, quote_literal(s.srvversion) AS version,
           {options("s.srvoptions")} AS options
      FROM pg_foreign_server s
      JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
     WHERE {own("pg_foreign_server", "s.oid")}
"""


def _servers(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        name = row["name"]
        type_ = f" TYPE {row['type']}" if row["type"] else ""
        version = f" VERSION {row['version']}" if row["version"] else ""
        create = f"CREATE SERVER {name}{type_}{version} FOREIGN DATA WRAPPER {row['wrapper']};"
        draft = _named(row, "server", address.SERVER, create)
        draft.grant_on = f"FOREIGN SERVER {name}"
        draft.add("wrapper", row["wrapper"], inline=True)
        draft.add("type", row["type"], inline=True)
        draft.add("version", row["version"], set=f"ALTER SERVER {name}{version};", inline=True)
        draft.foreign_options(row["options"], f"ALTER SERVER {name}")
        yield draft


FAMILIES = (
    Family(_SCHEMAS, _schemas),
    Family(_EXTENSIONS, _extensions, of_database=True),
    Family(_publications_query("NULL", "NULL"), _publications, of_database=True, until=150000),
    Family(_publications_query(_COLUMN_LIST, _ROW_FILTER), _publications, of_database=True, since=150000),
    Family(_SERVERS, _servers, of_database=True),
)
