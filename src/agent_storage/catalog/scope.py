"""The scope of a snapshot, and the pieces of SQL that the queries share."""

# ruff: noqa: S608  (pieces of queries, all of them literal)

from __future__ import annotations

from typing import LiteralString

# Runs first; its result is the parameters of every other query. Names that start with pg_ are the server's own.
# The tracking tables of yoyo and of this package are not part of the schema.
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
                    AND relname ~ '^(_yoyo_(migration|log|version)|yoyo_lock|_storage_.*)$') AS tracking
"""


def own(catalog: LiteralString, oid: LiteralString, kinds: LiteralString = "'e'") -> LiteralString:
    """Return a condition: the object is not a member of an extension."""
    return (
        f"NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = '{catalog}'::regclass AND m.objid = {oid}"
        f" AND m.deptype IN ({kinds}))"
    )


def declared(catalog: LiteralString, oid: LiteralString) -> LiteralString:
    """Return a condition: nor was it created by the server with another object, as the casts of a range are."""
    return own(catalog, oid, "'e', 'i'")


def options(array: LiteralString) -> LiteralString:
    """Return an expression: storage or foreign options as a JSON object of quoted names and values."""
    return (
        "(SELECT jsonb_object_agg(quote_ident(option_name), quote_literal(option_value))"
        f" FROM pg_options_to_table({array}))"
    )


def role(oid: LiteralString) -> LiteralString:
    """Return an expression: the quoted name of a role."""
    return f"quote_ident(pg_get_userbyid({oid}))"
