"""The statements on the tracking tables. `{mine}`, `{rows}` and the like are filled in by `composed`."""

from __future__ import annotations

from psycopg import sql

from agent_storage.migrations.history.yoyo import TABLES

TABLE = "_storage_migration"
ALL_TABLES = (*TABLES, TABLE)

CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    source           text NOT NULL,
    migration_id     text NOT NULL,
    position         bigint GENERATED ALWAYS AS IDENTITY,
    state            text NOT NULL CHECK (state IN ('applied', 'running', 'failed')),
    direction        text NOT NULL CHECK (direction IN ('up', 'down')),
    origin           text NOT NULL CHECK (origin IN ('run', 'adopted', 'baseline', 'resolved', 'squash')),
    checksum         text NOT NULL,
    up_sql           text NOT NULL,
    down_sql         text,
    done_statements  integer NOT NULL,
    total_statements integer NOT NULL,
    duration_ms      bigint,
    error            text,
    applied_at       timestamp,
    changed_at       timestamptz NOT NULL DEFAULT now(),
    applied_by       text,
    tool_version     text,
    git_commit       text,
    PRIMARY KEY (source, migration_id)
)
"""
COMMENT = "COMMENT ON TABLE {table} IS 'Written by storage migrate: what was applied, and how to roll it back'"

# In the table of an older release, which has no column `source`, the name refers to `older`, and is NULL.
ROWS = """
(SELECT l.*, (SELECT source FROM (SELECT l.*) AS columns) AS recorded_source
   FROM {table} l
  CROSS JOIN (VALUES (NULL::text)) AS older (source))
"""
HAS_SOURCE = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_attribute
     WHERE attrelid = %s::regclass AND attname = 'source' AND NOT attisdropped
)
"""
TAKE_OVER = """
ALTER TABLE {table} ADD COLUMN source text;
UPDATE {table} SET source = taken.source
  FROM jsonb_to_recordset({owners}) AS taken (migration_id text, source text)
 WHERE taken.migration_id = {table}.migration_id;
UPDATE {table} SET source = {rest} WHERE source IS NULL;
ALTER TABLE {table} ALTER COLUMN source SET NOT NULL, DROP CONSTRAINT {key}, ADD PRIMARY KEY (source, migration_id)
"""

STATE = """
SELECT coalesce(y.migration_id, l.migration_id) AS id, l.recorded_source AS source,
       y.applied_at_utc IS NOT NULL AS applied, y.applied_at_utc AS applied_at, l.checksum, l.state, l.direction,
       l.done_statements, l.total_statements, l.duration_ms, l.error, l.applied_by, l.origin, md5(l.up_sql) AS text_md5
  FROM {yoyo} y
  FULL JOIN {rows} AS l ON l.migration_id = y.migration_id AND l.applied_at = y.applied_at_utc
 WHERE y.migration_id IS NOT NULL OR l.state <> 'applied'
 ORDER BY l.position NULLS FIRST, y.applied_at_utc, id
"""
STATE_OF_STOCK_YOYO = """
SELECT migration_id AS id, NULL AS source, TRUE AS applied, applied_at_utc AS applied_at, NULL AS checksum,
       NULL AS state, NULL AS direction, 0 AS done_statements, 0 AS total_statements, NULL AS duration_ms,
       NULL AS error, NULL AS applied_by, NULL AS origin, NULL AS text_md5
  FROM {yoyo}
 ORDER BY applied_at_utc, migration_id
"""

# The row of yoyo's table that belongs to a migration. One that no row of {table} explains is stock yoyo's.
MINE = """
SELECT y.migration_hash, y.applied_at_utc
  FROM {yoyo} y
  LEFT JOIN {table} l ON l.migration_id = y.migration_id AND l.applied_at = y.applied_at_utc
 WHERE y.migration_id = %(id)s::text AND coalesce(l.source, %(source)s::text) = %(source)s::text
 ORDER BY l.source NULLS LAST
 LIMIT 1
"""
FREE_HASH = """
CASE WHEN EXISTS (SELECT FROM {yoyo} WHERE migration_hash = %(hash)s::text) THEN %(other_hash)s::text
     ELSE %(hash)s::text
END
"""
# No two rows of an id have the same time, because the time tells which row of {table} belongs to each.
MARK = """
INSERT INTO {yoyo} (migration_hash, migration_id, applied_at_utc)
SELECT {free_hash}, %(id)s::text,
       greatest(clock_timestamp() AT TIME ZONE 'UTC', max(applied_at_utc) + interval '1 microsecond')
  FROM {yoyo}
 WHERE migration_id = %(id)s::text
RETURNING applied_at_utc
"""
UNMARK = "DELETE FROM {yoyo} WHERE migration_hash = (SELECT migration_hash FROM ({mine}) AS mine)"
LOG = """
INSERT INTO {log} (id, migration_hash, migration_id, operation, username, hostname, comment, created_at_utc)
VALUES (%(log_id)s, %(hash)s::text, %(id)s::text, %(operation)s, %(user)s, %(host)s, %(comment)s,
        clock_timestamp() AT TIME ZONE 'UTC')
"""
#: Precedes the source in the comment of yoyo's log.
COMMENT_OF_LOG = "source "

RECORD = """
INSERT INTO {table} (source, migration_id, state, direction, origin, checksum, up_sql, down_sql, done_statements,
                     total_statements, duration_ms, error, applied_at, applied_by, tool_version, git_commit)
VALUES (%(source)s::text, %(id)s::text, %(state)s, %(direction)s, %(origin)s, %(checksum)s, %(up_sql)s,
        %(down_sql)s, %(done)s, %(total)s, %(duration_ms)s, NULL,
        coalesce(%(at)s, (SELECT applied_at_utc FROM ({mine}) AS mine)),
        %(user)s, %(version)s, %(commit)s)
    ON CONFLICT (source, migration_id) DO UPDATE
   SET state = excluded.state, direction = excluded.direction, origin = excluded.origin, error = NULL,
       checksum = excluded.checksum, up_sql = excluded.up_sql, down_sql = excluded.down_sql,
       done_statements = excluded.done_statements, total_statements = excluded.total_statements,
       duration_ms = excluded.duration_ms, applied_at = excluded.applied_at, changed_at = now(),
       applied_by = excluded.applied_by, tool_version = excluded.tool_version, git_commit = excluded.git_commit
"""
RENAME = """
UPDATE {yoyo}
   SET migration_id = %(id)s::text,
       migration_hash = CASE WHEN %(id)s::text = %(old_id)s::text THEN mine.migration_hash ELSE {free_hash} END
  FROM ({formerly_mine}) AS mine
 WHERE {yoyo}.migration_hash = mine.migration_hash
"""
RENAME_STORED = """
UPDATE {table}
   SET migration_id = %(id)s::text, source = %(source)s::text
 WHERE migration_id = %(old_id)s::text AND source = %(old_source)s::text
"""
STORED = """
SELECT up_sql, down_sql
  FROM {rows} AS l
 WHERE migration_id = %(id)s::text AND coalesce(recorded_source, %(source)s::text) = %(source)s::text
"""
STALE = """
DELETE FROM {table} l
 WHERE l.state = 'applied' AND l.source = ANY(%s)
   AND NOT EXISTS (
           SELECT FROM {yoyo} y WHERE y.migration_id = l.migration_id AND y.applied_at_utc = l.applied_at
       )
"""
HISTORY = """
SELECT created_at_utc AT TIME ZONE 'UTC', operation, migration_id, username, hostname, substring(comment FROM %s)
  FROM {log}
 ORDER BY created_at_utc DESC, id
 LIMIT %s
"""


def composed(schema: str, text: str) -> sql.Composed:
    """Return one of these statements for the tables of a schema."""
    names = {"yoyo": TABLES[0], "log": "_yoyo_log", "lock": "yoyo_lock", "table": TABLE}
    tables = {key: sql.Identifier(schema, name) for key, name in names.items()}
    formerly = MINE.replace("%(id)s", "%(old_id)s").replace("%(source)s", "%(old_source)s")
    parts = {"mine": MINE, "formerly_mine": formerly, "rows": ROWS, "free_hash": FREE_HASH}
    # The texts are constants of this package.
    inner = {key: sql.SQL(part).format(**tables) for key, part in parts.items()}  # pyright: ignore[reportArgumentType]
    return sql.SQL(text).format(**tables, **inner)  # pyright: ignore[reportArgumentType]
