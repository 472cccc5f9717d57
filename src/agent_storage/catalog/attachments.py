"""Comments, grants, dependencies, and default privileges (grants on future objects): the server keeps them by
address for all kinds of objects.
"""

# ruff: noqa: S608  (every piece of these queries is a LiteralString; pyright sees to it)

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import LiteralString

from agent_storage.catalog import address
from agent_storage.catalog.draft import Address, DraftEntry, Family, Row
from agent_storage.catalog.scope import role

# Oids below 16384 are the server's own objects. Of these, the schema public and plpgsql may have new comments.
COMMENTS: LiteralString = """
    SELECT classoid, objoid, objsubid, description, quote_literal(description) AS literal
      FROM pg_description
     WHERE objoid >= 16384
        OR classoid IN ('pg_namespace'::regclass, 'pg_extension'::regclass)
"""


def attach_comments(drafts: Mapping[Address, DraftEntry], rows: Iterable[Row]) -> None:
    """Add its comment to every draft entry."""
    for row in rows:
        draft = drafts.get((row["classoid"], row["objoid"], row["objsubid"]))
        if draft is not None and draft.on:
            comment = f"COMMENT ON {draft.on} IS"
            draft.add("comment", row["description"], set=f"{comment} {row['literal']};", reset=f"{comment} NULL;")


# A NULL acl is the default for that kind of object and owner, which may also be written in full. So the privileges are
# compared with the default, grantee by grantee, and only differences are added. Default privileges of a schema are
# added to the general ones: their default is empty.
GRANTS: LiteralString = f"""
    WITH held (classid, objid, objsubid, kind, acl, owner, from_nothing) AS (
        SELECT 'pg_class'::regclass::oid, oid, 0, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END, relacl, relowner, false
          FROM pg_class
         WHERE relacl IS NOT NULL AND relnamespace = ANY (%(schemas)s)
     UNION ALL
        SELECT 'pg_class'::regclass, attrelid, attnum, 'c', attacl, relowner, true
          FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
         WHERE attacl IS NOT NULL AND relnamespace = ANY (%(schemas)s)
     UNION ALL
        SELECT 'pg_proc'::regclass, oid, 0, 'f', proacl, proowner, false
          FROM pg_proc
         WHERE proacl IS NOT NULL AND pronamespace = ANY (%(schemas)s)
     UNION ALL
        SELECT 'pg_type'::regclass, oid, 0, 'T', typacl, typowner, false
          FROM pg_type
         WHERE typacl IS NOT NULL AND typnamespace = ANY (%(schemas)s)
     UNION ALL
        SELECT 'pg_namespace'::regclass, oid, 0, 'n', nspacl, nspowner, false
          FROM pg_namespace
         WHERE nspacl IS NOT NULL AND oid = ANY (%(schemas)s)
     UNION ALL
        SELECT 'pg_foreign_server'::regclass, oid, 0, 'S', srvacl, srvowner, false
          FROM pg_foreign_server
         WHERE srvacl IS NOT NULL
     UNION ALL
        SELECT 'pg_default_acl'::regclass, oid, 0, CASE defaclobjtype WHEN 'S' THEN 's' ELSE defaclobjtype::text END,
               defaclacl, defaclrole, defaclnamespace <> 0
          FROM pg_default_acl
    ), rights AS (
        SELECT h.*, x.grantee, concat(x.privilege_type, CASE WHEN x.is_grantable THEN '*' END) AS privilege, true AS now
          FROM held h, aclexplode(h.acl) x
     UNION ALL
        SELECT h.*, x.grantee, concat(x.privilege_type, CASE WHEN x.is_grantable THEN '*' END), false
          FROM held h, aclexplode(acldefault(h.kind::"char", h.owner)) x
         WHERE NOT h.from_nothing
    )
    SELECT classid, objid, objsubid, {role("owner")} AS owner, grantee = owner AS own,
           CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE {role("grantee")} END AS grantee,
           coalesce(array_agg(DISTINCT privilege) FILTER (WHERE now), '{{}}') AS privileges,
           coalesce(array_agg(DISTINCT privilege) FILTER (WHERE NOT now), '{{}}') AS defaults
      FROM rights
     GROUP BY classid, objid, objsubid, owner, grantee
"""


def attach_grants(drafts: Mapping[Address, DraftEntry], rows: Iterable[Row]) -> None:
    """Add to every draft entry the privileges that differ from the default for its kind."""
    for row in rows:
        draft = drafts.get((row["classid"], row["objid"], row["objsubid"]))
        if draft is not None and draft.grant_on and row["privileges"] != row["defaults"]:
            to = "the owner" if row["own"] else row["grantee"]
            draft.add(
                f"grant to {to}",
                ", ".join(row["privileges"]) or "nothing",
                set=_grant(draft, row["grantee"], row["privileges"]),
                reset=_grant(draft, row["grantee"], row["defaults"]),
            )


def _grant(draft: DraftEntry, grantee: str, privileges: list[str]) -> str:
    """Return the SQL that grants exactly these privileges. A star marks those WITH GRANT OPTION."""
    column = f" ({draft.grant_column})" if draft.grant_column else ""
    before, on = draft.grant_before, draft.grant_on
    statements = [f"{before}REVOKE ALL{column} ON {on} FROM {grantee};"]
    for star, option in (("", ""), ("*", " WITH GRANT OPTION")):
        names = [name.rstrip("*") for name in privileges if name.endswith("*") == bool(star)]
        if names:
            listed = ", ".join(f"{name}{column}" for name in names)
            statements.append(f"{before}GRANT {listed} ON {on} TO {grantee}{option};")
    return "\n".join(statements)


_DEFAULT_PRIVILEGES: LiteralString = f"""
    SELECT d.oid, {role("d.defaclrole")} AS role, quote_ident(n.nspname) AS schema,
           CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
                                WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS objects
      FROM pg_default_acl d
      LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
     WHERE d.defaclnamespace = ANY (%(schemas)s)
        OR (d.defaclnamespace = 0 AND %(whole)s)
"""


def _default_privileges(rows: Iterable[Row]) -> Iterable[DraftEntry]:
    for row in rows:
        of = f"FOR ROLE {row['role']}" + (f" IN SCHEMA {row['schema']}" if row["schema"] else "")
        yield DraftEntry(
            kind="default privileges",
            name=f"{of} ON {row['objects']}",
            address=(address.DEFAULT_ACL, row["oid"], 0),
            grant_on=row["objects"],
            grant_before=f"ALTER DEFAULT PRIVILEGES {of} ",
        )


FAMILIES = (Family(_DEFAULT_PRIVILEGES, _default_privileges),)

# Only references of a definition. A sequence's automatic dependency is OWNED BY, which has the opposite direction.
DEPENDENCIES: LiteralString = """
    SELECT classid, objid, objsubid, refclassid, refobjid, refobjsubid
      FROM pg_depend
     WHERE objid >= 16384
       AND refobjid >= 16384
       AND (deptype = 'n'
            OR (deptype = 'a' AND NOT (classid = 'pg_class'::regclass AND objsubid = 0
                                       AND EXISTS (SELECT FROM pg_sequence WHERE seqrelid = objid))))
"""


def requirements(drafts: Iterable[DraftEntry], rows: Iterable[Row]) -> dict[str, set[str]]:
    """Return for every key the keys to which it refers."""
    keys: dict[Address, str] = {}
    for draft in drafts:
        keys |= dict.fromkeys((draft.address, *draft.aliases), draft.key)
    found: dict[str, set[str]] = {}
    for row in rows:
        user = _key(keys, row["classid"], row["objid"], row["objsubid"])
        used = _key(keys, row["refclassid"], row["refobjid"], row["refobjsubid"])
        if user and used:
            found.setdefault(user, set()).add(used)
    return found


def _key(keys: Mapping[Address, str], catalog: int, oid: int, part: int) -> str | None:
    return keys.get((catalog, oid, part)) or keys.get((catalog, oid, 0))
