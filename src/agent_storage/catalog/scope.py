"""Which objects count, and the pieces of SQL that every family's query is made of."""

# ruff: noqa: S608  (pieces of queries, all of them literal)

from __future__ import annotations

from typing import LiteralString

# Asked first; its answers are parameters of every other query. Names that start with pg_ are the server's own.
# The bookkeeping tables of yoyo and of this package are no part of anybody's schema.
SCOPE: LiteralString = """
    SELECT current_setting('server_version_num')::int AS server_version,
           ARRAY(SELECT oid
                   FROM pg_namespace
                  WHERE nspname !~ '^pg_'
                    AND nspname <> 'information_schema'
                    AND (%(schemas)s::text[] IS NULL OR nspname = ANY (%(schemas)s::text[]))) AS schemas,
           ARRAY(SELECT oid
                   FROM pg_class
                  WHERE relkind IN ('r', 'p')
                    AND relname ~ '^(_yoyo_(migration|log|version)|yoyo_lock|_storage_.*)$') AS bookkeeping
"""


def own(catalog: LiteralString, oid: LiteralString, kinds: LiteralString = "'e'") -> LiteralString:
    """A condition: the object is no member of an extension. What is, belongs to the extension and its version."""
    return (
        f"NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = '{catalog}'::regclass AND m.objid = {oid}"
        f" AND m.deptype IN ({kinds}))"
    )


def declared(catalog: LiteralString, oid: LiteralString) -> LiteralString:
    """A condition: nor was it made by the server along with something else, as a range's functions and casts are."""
    return own(catalog, oid, "'e', 'i'")


def options(array: LiteralString) -> LiteralString:
    """Storage or foreign options as a JSON object of quoted names and quoted values."""
    return (
        "(SELECT jsonb_object_agg(quote_ident(option_name), quote_literal(option_value))"
        f" FROM pg_options_to_table({array}))"
    )


def role(oid: LiteralString) -> LiteralString:
    """A role's quoted name."""
    return f"quote_ident(pg_get_userbyid({oid}))"
