"""Objects that a snapshot does not model: only their names are read, so that changes are reported.

Not part of a schema and not read: rows, large objects, roles, tablespaces, settings of a database or role, and values
of sequences.
"""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agent_storage.catalog.draft import Row
from agent_storage.catalog.scope import own


def _objects(catalog: LiteralString, namespace: LiteralString, condition: LiteralString = "true") -> LiteralString:
    """Return one branch of the query: the user-created objects of a catalog, except members of extensions."""
    return (
        f"SELECT '{catalog}'::regclass::oid AS classid, o.oid, {namespace} AS namespace FROM {catalog} o"
        f" WHERE o.oid >= 16384 AND {condition} AND {own(catalog, 'o.oid')}"
    )


# User mappings and subscriptions contain passwords: their names are read, never their options.
# pg_identify_object is independent of lc_messages; pg_describe_object is not.
_BRANCHES: tuple[LiteralString, ...] = (
    # Row types of tables, array types (which have an element type) and multiranges belong to other objects.
    _objects("pg_type", "o.typnamespace", "(o.typtype = 'b' AND o.typelem = 0 OR o.typtype = 'p')"),
    _objects("pg_class", "o.relnamespace", "o.relkind NOT IN ('r', 'p', 'f', 'v', 'm', 'S', 'c', 'i', 'I', 't')"),
    _objects("pg_conversion", "o.connamespace"),
    _objects("pg_opclass", "o.opcnamespace"),
    _objects("pg_opfamily", "o.opfnamespace"),
    _objects("pg_ts_parser", "o.prsnamespace"),
    _objects("pg_ts_template", "o.tmplnamespace"),
    _objects("pg_language", "0"),
    _objects("pg_am", "0"),
    _objects("pg_foreign_data_wrapper", "0"),
    _objects("pg_transform", "0"),
    """SELECT 'pg_subscription'::regclass, s.oid, 0
         FROM pg_subscription s
         JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()""",
)
UNMODELLED: LiteralString = f"""
    SELECT concat(i.type, ' ', i.identity) AS name
      FROM ({" UNION ALL ".join(_BRANCHES)}) seen, pg_identify_object(seen.classid, seen.oid, 0) i
     WHERE seen.namespace = ANY (%(schemas)s)
        OR (seen.namespace = 0 AND %(whole)s)
 UNION
    SELECT format('user mapping %%I on server %%I', usename, srvname)
      FROM pg_user_mappings
     WHERE %(whole)s
 UNION
    SELECT format('security label of %%s on %%s %%s', l.provider, i.type, i.identity)
      FROM pg_seclabel l, pg_identify_object(l.classoid, l.objoid, l.objsubid) i
     WHERE %(whole)s
"""


def unmodelled(rows: Iterable[Row]) -> list[str]:
    """Return the names, sorted."""
    return sorted(row["name"] for row in rows)
