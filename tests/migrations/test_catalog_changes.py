"""Every single change of an object is found, named, and repaired by the SQL that is offered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import pytest

from agent_storage.catalog import Catalog, Difference, compare, snapshot

from .test_catalog_schema import fresh, load, roles  # noqa: F401


@dataclass(frozen=True)
class Change:
    """What somebody did to the actual database, and what a difference has to name."""

    does: str
    object: str
    property: str
    since: int = 14
    until: int = 99
    # The repair stands commented out, because something is lost by it.
    loses: bool = False


MISSING, UNEXPECTED = "missing", "unexpected"
CUSTOMERS, ORDERS, EVENTS = "app.customers", "app.orders", "app.events"

CHANGES = [
    # schemas
    Change("CREATE SCHEMA extra", "extra", UNEXPECTED),
    Change("COMMENT ON SCHEMA app IS 'something else'", "app", "comment"),
    Change("REVOKE USAGE ON SCHEMA app FROM catalog_reader", "app", "grant to catalog_reader"),
    Change("GRANT CREATE ON SCHEMA app TO PUBLIC", "app", "grant to PUBLIC"),
    # tables
    Change("CREATE TABLE app.extra (id integer)", "app.extra", UNEXPECTED, loses=True),
    Change("DROP TABLE app.second CASCADE", "app.second", MISSING),
    Change("DROP TABLE app.cache", "app.cache", MISSING),
    Change('DROP TABLE public."Odd Name"', 'public."Odd Name"', MISSING),
    Change("ALTER TABLE app.cache RENAME TO store", "app.cache", "name"),
    Change("ALTER TABLE app.cache SET LOGGED", "app.cache", "persistence"),
    Change("ALTER TABLE app.checked SET UNLOGGED", "app.checked", "persistence"),
    Change("ALTER TABLE app.customers SET (fillfactor = 60)", CUSTOMERS, "option fillfactor"),
    Change("ALTER TABLE app.customers RESET (fillfactor)", CUSTOMERS, "option fillfactor"),
    Change("ALTER TABLE app.orders SET (parallel_workers = 4)", ORDERS, "option parallel_workers"),
    Change("ALTER TABLE app.orders SET (toast.autovacuum_enabled = off)", ORDERS, "option toast.autovacuum_enabled"),
    Change("ALTER TABLE app.orders REPLICA IDENTITY DEFAULT", ORDERS, "replica identity"),
    Change("ALTER TABLE app.first REPLICA IDENTITY NOTHING", "app.first", "replica identity"),
    Change("ALTER TABLE app.first REPLICA IDENTITY USING INDEX first_pkey", "app.first", "replica identity"),
    Change("ALTER TABLE app.orders DISABLE ROW LEVEL SECURITY", ORDERS, "row security"),
    Change("ALTER TABLE app.customers ENABLE ROW LEVEL SECURITY", CUSTOMERS, "row security"),
    Change("ALTER TABLE app.orders FORCE ROW LEVEL SECURITY", ORDERS, "row security for the owner"),
    Change("COMMENT ON TABLE app.customers IS NULL", CUSTOMERS, "comment"),
    Change("COMMENT ON TABLE app.orders IS 'what''s bought'", ORDERS, "comment"),
    Change("REVOKE SELECT ON app.customers FROM catalog_reader", CUSTOMERS, "grant to catalog_reader"),
    Change("GRANT DELETE ON app.customers TO catalog_reader", CUSTOMERS, "grant to catalog_reader"),
    Change("GRANT SELECT ON app.orders TO PUBLIC", ORDERS, "grant to PUBLIC"),
    Change("REVOKE DELETE ON app.orders FROM CURRENT_USER", ORDERS, "grant to the owner"),
    Change("REVOKE GRANT OPTION FOR SELECT ON app.customers FROM catalog_writer", CUSTOMERS, "grant to catalog_writer"),
    # columns
    Change("ALTER TABLE app.customers ADD COLUMN extra integer", "app.customers.extra", UNEXPECTED, loses=True),
    Change("ALTER TABLE app.customers DROP COLUMN settings", "app.customers.settings", MISSING),
    Change("ALTER TABLE app.customers DROP COLUMN email", "app.customers.email", MISSING),
    Change("ALTER TABLE app.customers RENAME COLUMN notes TO remarks", "app.customers.notes", "name"),
    Change('ALTER TABLE app.customers RENAME COLUMN "Full Name" TO name', 'app.customers."Full Name"', "name"),
    Change("ALTER TABLE app.orders RENAME COLUMN small TO tiny", "app.orders.small", "name"),
    Change("ALTER TABLE app.orders ALTER COLUMN room TYPE smallint", "app.orders.room", "type"),
    Change("ALTER TABLE app.orders ALTER COLUMN small TYPE bigint", "app.orders.small", "type", loses=True),
    Change("ALTER TABLE app.orders ALTER COLUMN code TYPE varchar(10)", "app.orders.code", "type"),
    Change("ALTER TABLE app.orders ALTER COLUMN code TYPE text", "app.orders.code", "type", loses=True),
    Change(
        "ALTER TABLE app.orders ALTER COLUMN updated_at TYPE timestamp", "app.orders.updated_at", "type", loses=True
    ),
    Change(
        "ALTER TABLE app.customers ALTER COLUMN settings DROP DEFAULT,"
        " ALTER COLUMN settings TYPE text, ALTER COLUMN settings SET DEFAULT '{}'",
        "app.customers.settings",
        "type",
        loses=True,
    ),
    Change("ALTER TABLE app.spots NOT OF", "app.spots", "type"),
    Change("DROP TABLE app.spots", "app.spots", MISSING),
    Change(
        "DROP TABLE app.cache; CREATE UNLOGGED TABLE app.cache (key text PRIMARY KEY, value text COLLATE app.plain)"
        " PARTITION BY HASH (key)",
        "app.cache",
        "partition key",
        loses=True,
        until=17,
    ),
    Change(
        "DROP TABLE app.events CASCADE; CREATE TABLE app.events (id bigint NOT NULL, at date NOT NULL,"
        " kind text DEFAULT 'x', CONSTRAINT events_pkey PRIMARY KEY (id, at),"
        " CONSTRAINT events_kind_check CHECK (kind <> '')) PARTITION BY LIST (at)",
        "app.events",
        "partition key",
        loses=True,
    ),
    Change("ALTER TABLE app.events ALTER COLUMN kind TYPE varchar(9)", "app.events.kind", "type"),
    Change(
        "DROP VIEW app.open_orders CASCADE; ALTER TABLE app.customers ALTER COLUMN code TYPE varchar(9);"
        "CREATE VIEW app.open_orders AS SELECT 1 AS id, c.code FROM app.customers c",
        "app.customers.code",
        "type",
    ),
    Change('ALTER TABLE app.customers ALTER COLUMN "Full Name" SET NOT NULL', 'app.customers."Full Name"', "not null"),
    Change("ALTER TABLE app.customers ALTER COLUMN settings DROP NOT NULL", "app.customers.settings", "not null"),
    Change("ALTER TABLE app.orders ALTER COLUMN note SET NOT NULL", "app.orders.note", "not null"),
    Change("ALTER TABLE app.customers ALTER COLUMN settings DROP DEFAULT", "app.customers.settings", "default"),
    Change("ALTER TABLE app.customers ALTER COLUMN notes SET DEFAULT 'none'", "app.customers.notes", "default"),
    Change("ALTER TABLE app.orders ALTER COLUMN status SET DEFAULT 'paid'", "app.orders.status", "default"),
    Change("ALTER TABLE app.orders ALTER COLUMN id DROP DEFAULT", "app.orders.id", "default"),
    Change("ALTER TABLE app.events_2026 ALTER COLUMN kind SET DEFAULT 'y'", "app.events_2026.kind", "default"),
    Change(
        "ALTER TABLE app.orders DROP COLUMN taxed, ADD COLUMN taxed numeric GENERATED ALWAYS AS (total * 1.2) STORED",
        "app.orders.taxed",
        "generated",
    ),
    Change("ALTER TABLE app.orders ALTER COLUMN taxed DROP EXPRESSION", "app.orders.taxed", "generated", loses=True),
    Change(
        "ALTER TABLE app.orders DROP COLUMN room CASCADE,"
        " ADD COLUMN room integer GENERATED ALWAYS AS (7) STORED;"
        "ALTER TABLE app.orders ADD CONSTRAINT orders_no_overlap EXCLUDE USING gist (placed WITH &&) WHERE (room > 0)",
        "app.orders.room",
        "generated",
    ),
    Change("ALTER TABLE app.customers ALTER COLUMN id DROP IDENTITY", "app.customers.id", "identity"),
    Change("ALTER TABLE app.customers ALTER COLUMN id SET GENERATED BY DEFAULT", "app.customers.id", "identity"),
    Change("ALTER TABLE app.customers ALTER COLUMN id SET INCREMENT BY 2 SET CYCLE", "app.customers.id", "identity"),
    Change("ALTER TABLE app.tree ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY", "app.tree.id", "identity"),
    Change('ALTER TABLE app.cache ALTER COLUMN value TYPE text COLLATE "C"', "app.cache.value", "collation"),
    Change("ALTER TABLE app.cache ALTER COLUMN value TYPE text", "app.cache.value", "collation"),
    Change('ALTER TABLE app.customers ALTER COLUMN notes TYPE text COLLATE "C"', "app.customers.notes", "collation"),
    Change("ALTER TABLE app.customers ALTER COLUMN notes SET STORAGE EXTENDED", "app.customers.notes", "storage"),
    Change("ALTER TABLE app.orders ALTER COLUMN note SET STORAGE MAIN", "app.orders.note", "storage"),
    Change("ALTER TABLE app.orders ALTER COLUMN note SET COMPRESSION pglz", "app.orders.note", "compression"),
    Change("ALTER TABLE app.customers ALTER COLUMN notes SET STATISTICS 50", "app.customers.notes", "statistics"),
    Change("ALTER TABLE app.customers ALTER COLUMN notes SET STATISTICS -1", "app.customers.notes", "statistics"),
    Change("ALTER TABLE app.customers ALTER COLUMN code RESET (n_distinct)", "app.customers.code", "option n_distinct"),
    Change("COMMENT ON COLUMN app.customers.code IS 'x'", "app.customers.code", "comment"),
    Change(
        "REVOKE UPDATE (notes) ON app.customers FROM catalog_reader", "app.customers.notes", "grant to catalog_reader"
    ),
    Change("GRANT SELECT (note) ON app.orders TO catalog_reader", "app.orders.note", "grant to catalog_reader"),
    # constraints
    Change("ALTER TABLE app.tree DROP CONSTRAINT tree_pkey CASCADE", "app.tree.tree_pkey", MISSING),
    Change("ALTER TABLE app.checked ADD PRIMARY KEY (value)", "app.checked.checked_pkey", UNEXPECTED),
    Change(
        "ALTER TABLE app.cache DROP CONSTRAINT cache_pkey, ADD CONSTRAINT cache_pkey PRIMARY KEY (key, value)",
        "app.cache.cache_pkey",
        "definition",
    ),
    Change(
        "ALTER TABLE app.customers DROP CONSTRAINT customers_email_key", "app.customers.customers_email_key", MISSING
    ),
    Change("ALTER TABLE app.orders ADD UNIQUE (note)", "app.orders.orders_note_key", UNEXPECTED),
    Change(
        "ALTER TABLE app.orders DROP CONSTRAINT orders_code_key, ADD CONSTRAINT orders_code_key UNIQUE (code)",
        "app.orders.orders_code_key",
        "definition",
    ),
    Change("ALTER TABLE app.orders DROP CONSTRAINT orders_customer_fk", "app.orders.orders_customer_fk", MISSING),
    Change(
        "ALTER TABLE app.orders DROP CONSTRAINT orders_customer_fk, ADD CONSTRAINT orders_customer_fk"
        " FOREIGN KEY (customer_id) REFERENCES app.customers (id) ON DELETE RESTRICT ON UPDATE CASCADE",
        "app.orders.orders_customer_fk",
        "definition",
    ),
    Change(
        "ALTER TABLE app.orders ALTER CONSTRAINT orders_customer_fk DEFERRABLE INITIALLY DEFERRED",
        "app.orders.orders_customer_fk",
        "definition",
    ),
    Change("ALTER TABLE app.first DROP CONSTRAINT first_second_fk", "app.first.first_second_fk", MISSING),
    Change("ALTER TABLE app.orders DROP CONSTRAINT orders_total_check", "app.orders.orders_total_check", MISSING),
    Change("ALTER TABLE app.orders ADD CONSTRAINT extra CHECK (small < 9)", "app.orders.extra", UNEXPECTED),
    Change(
        "ALTER TABLE app.orders DROP CONSTRAINT orders_total_check,"
        " ADD CONSTRAINT orders_total_check CHECK (total > 0)",
        "app.orders.orders_total_check",
        "definition",
    ),
    Change(
        "ALTER TABLE app.orders DROP CONSTRAINT orders_total_check,"
        " ADD CONSTRAINT orders_total_check CHECK (total >= 0) NOT VALID;"
        "COMMENT ON CONSTRAINT orders_total_check ON app.orders IS 'no negative money'",
        "app.orders.orders_total_check",
        "valid",
    ),
    Change("ALTER TABLE app.checked VALIDATE CONSTRAINT checked_positive", "app.checked.checked_positive", "valid"),
    Change("ALTER TABLE app.orders DROP CONSTRAINT orders_no_overlap", "app.orders.orders_no_overlap", MISSING),
    Change(
        "ALTER TABLE app.orders RENAME CONSTRAINT orders_total_check TO positive",
        "app.orders.orders_total_check",
        "name",
    ),
    Change("ALTER TABLE app.orders RENAME CONSTRAINT orders_pkey TO orders_key", "app.orders.orders_pkey", "name"),
    Change(
        "COMMENT ON CONSTRAINT orders_total_check ON app.orders IS NULL", "app.orders.orders_total_check", "comment"
    ),
    Change(
        "ALTER TABLE app.events DROP CONSTRAINT events_kind_check,"
        " ADD CONSTRAINT events_kind_check CHECK (kind <> 'y')",
        "app.events.events_kind_check",
        "definition",
    ),
    Change("ALTER TABLE app.events DROP CONSTRAINT events_pkey", "app.events.events_pkey", MISSING),
    Change("ALTER TABLE app.events_2026 ADD CONSTRAINT more CHECK (id > 0)", "app.events_2026.more", UNEXPECTED),
    Change("ALTER TABLE app.customers DISABLE TRIGGER ALL", "app.customers.set_timestamp", "enabled"),
    Change("ALTER TABLE app.second DISABLE TRIGGER ALL", "app.second.second_first_id_fkey", "enforcing triggers"),
    Change(
        "ALTER TABLE app.distinct_nulls DROP CONSTRAINT distinct_nulls_key,"
        " ADD CONSTRAINT distinct_nulls_key UNIQUE (a)",
        "app.distinct_nulls.distinct_nulls_key",
        "definition",
        since=15,
    ),
    Change(
        "ALTER TABLE app.uses_pairs DROP CONSTRAINT uses_pairs_a_b_fkey,"
        " ADD FOREIGN KEY (a, b) REFERENCES app.pairs (a, b) ON DELETE SET NULL",
        "app.uses_pairs.uses_pairs_a_b_fkey",
        "definition",
        since=15,
    ),
    Change(
        "ALTER TABLE app.lax DROP CONSTRAINT lax_id_check, ADD CONSTRAINT lax_id_check CHECK (id > 0)",
        "app.lax.lax_id_check",
        "definition",
        since=18,
    ),
    Change(
        "ALTER TABLE app.modern RENAME CONSTRAINT modern_id_is_there TO modern_id_not_null",
        "app.modern.modern_id_is_there",
        "name",
        since=18,
    ),
    Change("ALTER TABLE app.modern ALTER COLUMN id DROP NOT NULL", "app.modern.id", "not null", since=18),
    Change(
        "ALTER TABLE app.modern ADD CONSTRAINT other_there NOT NULL other NOT VALID",
        "app.modern.other",
        "not null",
        since=18,
    ),
    Change(
        "ALTER TABLE app.modern ALTER COLUMN doubled SET EXPRESSION AS (id * 3)",
        "app.modern.doubled",
        "generated",
        since=18,
    ),
    Change("ALTER TABLE app.periods DROP CONSTRAINT periods_pkey", "app.periods.periods_pkey", MISSING, since=18),
    # indexes
    Change("CREATE INDEX extra ON app.orders (placed)", "app.extra", UNEXPECTED),
    Change("DROP INDEX app.orders_status_idx", "app.orders_status_idx", MISSING),
    Change('DROP INDEX public."an "" index"', 'public."an "" index"', MISSING),
    Change("ALTER INDEX app.orders_status_idx RENAME TO listed", "app.orders_status_idx", "name"),
    Change(
        "DROP INDEX app.orders_updated_idx; CREATE INDEX orders_updated_idx ON app.orders (updated_at)",
        "app.orders_updated_idx",
        "definition",
    ),
    Change(
        "DROP INDEX app.orders_small_key; CREATE INDEX orders_small_key ON app.orders (small) WHERE small > 0",
        "app.orders_small_key",
        "unique",
    ),
    Change(
        "DROP INDEX app.orders_small_key; CREATE UNIQUE INDEX orders_small_key ON app.orders (small) WHERE small > 1",
        "app.orders_small_key",
        "definition",
    ),
    Change(
        "DROP INDEX app.orders_note_idx; CREATE INDEX orders_note_idx ON app.orders (lower(note))",
        "app.orders_note_idx",
        "definition",
    ),
    Change(
        "DROP INDEX app.orders_status_idx;"
        "CREATE INDEX orders_status_idx ON app.orders (status, total DESC NULLS LAST) WITH (fillfactor = 70)",
        "app.orders_status_idx",
        "definition",
    ),
    Change("ALTER INDEX app.orders_status_idx SET (fillfactor = 50)", "app.orders_status_idx", "option fillfactor"),
    Change("ALTER INDEX app.orders_pkey SET (fillfactor = 50)", "app.orders_pkey", "option fillfactor"),
    Change(
        "ALTER INDEX app.orders_note_idx ALTER COLUMN 1 SET STATISTICS 9",
        "app.orders_note_idx",
        "statistics of column 1",
    ),
    Change("COMMENT ON INDEX app.orders_status_idx IS 'x'", "app.orders_status_idx", "comment"),
    Change("ALTER TABLE app.orders SET WITHOUT CLUSTER", "app.orders_cluster_idx", "clustered"),
    Change(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.orders_status_idx'::regclass",
        "app.orders_status_idx",
        "valid",
    ),
    Change("DROP INDEX app.events_kind_idx", "app.events_kind_idx", MISSING),
    Change("ALTER INDEX app.events_2026_kind_idx RENAME TO odd", "app.events_2026_kind_idx", "name"),
    Change("DROP INDEX app.sums_customer", "app.sums_customer", MISSING),
    # statistics
    Change("DROP STATISTICS app.orders_shape", "app.orders_shape", MISSING),
    Change("CREATE STATISTICS app.extra ON small, room FROM app.orders", "app.extra", UNEXPECTED),
    Change(
        "DROP STATISTICS app.orders_shape;"
        "CREATE STATISTICS app.orders_shape (mcv) ON status, customer_id FROM app.orders",
        "app.orders_shape",
        "definition",
    ),
    Change("ALTER STATISTICS app.orders_shape SET STATISTICS 50", "app.orders_shape", "statistics"),
    # triggers, rules, policies
    Change("DROP TRIGGER set_timestamp ON app.customers", "app.customers.set_timestamp", MISSING),
    Change(
        "CREATE TRIGGER extra AFTER DELETE ON app.orders EXECUTE FUNCTION app.watch()", "app.orders.extra", UNEXPECTED
    ),
    Change(
        "DROP TRIGGER set_timestamp ON app.customers; CREATE TRIGGER set_timestamp BEFORE UPDATE OF notes"
        " ON app.customers FOR EACH ROW WHEN (old.* IS DISTINCT FROM new.*) EXECUTE FUNCTION app.touch()",
        "app.customers.set_timestamp",
        "definition",
    ),
    Change("ALTER TABLE app.customers DISABLE TRIGGER set_timestamp", "app.customers.set_timestamp", "enabled"),
    Change("ALTER TABLE app.customers ENABLE ALWAYS TRIGGER set_timestamp", "app.customers.set_timestamp", "enabled"),
    Change("ALTER TABLE app.events_2026 DISABLE TRIGGER watch_events", "app.events_2026.watch_events", "enabled"),
    Change("ALTER TRIGGER set_timestamp ON app.customers RENAME TO stamp", "app.customers.set_timestamp", "name"),
    Change("COMMENT ON TRIGGER set_timestamp ON app.customers IS NULL", "app.customers.set_timestamp", "comment"),
    Change("DROP TRIGGER watch_events ON app.events", "app.events.watch_events", MISSING),
    Change("DROP TRIGGER instead ON app.open_orders", "app.open_orders.instead", MISSING),
    Change("DROP RULE no_delete ON app.orders", "app.orders.no_delete", MISSING),
    Change(
        "CREATE OR REPLACE RULE no_delete AS ON DELETE TO app.orders DO INSTEAD NOTHING",
        "app.orders.no_delete",
        "definition",
    ),
    Change("ALTER TABLE app.orders DISABLE RULE no_delete", "app.orders.no_delete", "enabled"),
    Change("DROP POLICY own_orders ON app.orders", "app.orders.own_orders", MISSING),
    Change("CREATE POLICY extra ON app.orders", "app.orders.extra", UNEXPECTED),
    Change("ALTER POLICY own_orders ON app.orders USING (customer_id > 1)", "app.orders.own_orders", "using"),
    Change("ALTER POLICY own_orders ON app.orders TO PUBLIC", "app.orders.own_orders", "roles"),
    Change("ALTER POLICY write_orders ON app.orders WITH CHECK (true)", "app.orders.write_orders", "with check"),
    Change(
        "DROP POLICY write_orders ON app.orders;"
        "CREATE POLICY write_orders ON app.orders FOR UPDATE USING (true) WITH CHECK (total < 1000)",
        "app.orders.write_orders",
        "permissive",
    ),
    Change(
        "DROP POLICY own_orders ON app.orders;"
        "CREATE POLICY own_orders ON app.orders TO catalog_reader USING (customer_id > 0)",
        "app.orders.own_orders",
        "command",
    ),
    Change("ALTER EVENT TRIGGER watch_ddl DISABLE", "watch_ddl", "enabled"),
    Change("DROP EVENT TRIGGER watch_ddl", "watch_ddl", MISSING),
    Change(
        "DROP EVENT TRIGGER watch_ddl;"
        "CREATE EVENT TRIGGER watch_ddl ON ddl_command_end WHEN TAG IN ('DROP TABLE')"
        " EXECUTE FUNCTION app.notice_ddl()",
        "watch_ddl",
        "tags",
    ),
    # functions, procedures, aggregates, operators, casts
    Change("DROP FUNCTION app.touch() CASCADE", "app.touch()", MISSING),
    Change("CREATE FUNCTION app.extra() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "app.extra()", UNEXPECTED),
    Change(
        "CREATE OR REPLACE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "app.touch()",
        "body",
    ),
    Change("ALTER FUNCTION app.next_code(text) STABLE", "app.next_code(text)", "volatility"),
    Change("ALTER FUNCTION app.next_code(text) PARALLEL UNSAFE", "app.next_code(text)", "parallel"),
    Change("ALTER FUNCTION app.next_code(text) STRICT", "app.next_code(text)", "strict"),
    Change("ALTER FUNCTION app.touch() SECURITY DEFINER", "app.touch()", "security"),
    Change("ALTER FUNCTION app.touch() LEAKPROOF", "app.touch()", "leakproof"),
    Change("ALTER FUNCTION app.touch() COST 5", "app.touch()", "cost"),
    Change("ALTER FUNCTION app.touch() SET work_mem = '1MB'", "app.touch()", "settings"),
    Change(
        "CREATE OR REPLACE FUNCTION app.next_code(prefix text DEFAULT 'D') RETURNS text LANGUAGE sql IMMUTABLE"
        " PARALLEL SAFE AS $$ SELECT prefix || '1' $$",
        "app.next_code(text)",
        "arguments",
    ),
    Change(
        "DROP FUNCTION app.label(app.status) CASCADE; CREATE FUNCTION app.label(app.status) RETURNS bigint LANGUAGE sql"
        " IMMUTABLE AS $$ SELECT length($1::text) $$",
        "app.label(app.status)",
        "result",
    ),
    Change("COMMENT ON FUNCTION app.touch() IS NULL", "app.touch()", "comment"),
    Change("GRANT EXECUTE ON FUNCTION app.next_code(text) TO PUBLIC", "app.next_code(text)", "grant to PUBLIC"),
    Change("REVOKE EXECUTE ON FUNCTION app.touch() FROM PUBLIC", "app.touch()", "grant to PUBLIC"),
    Change("DROP PROCEDURE app.tidy(integer)", "app.tidy(integer)", MISSING),
    Change(
        "CREATE OR REPLACE PROCEDURE app.tidy(days integer) LANGUAGE plpgsql AS $$ BEGIN NULL; END $$",
        "app.tidy(integer)",
        "body",
    ),
    Change("DROP AGGREGATE app.join_all(text)", "app.join_all(text)", MISSING),
    Change(
        "CREATE OR REPLACE AGGREGATE app.join_all(text) (SFUNC = app.joined, STYPE = text, INITCOND = '>')",
        "app.join_all(text)",
        "definition",
    ),
    Change("DROP OPERATOR app.>>> (text, text)", "app.>>> (text, text)", MISSING),
    Change("ALTER OPERATOR app.>>> (text, text) SET (RESTRICT = scalargtsel)", "app.>>> (text, text)", "definition"),
    Change("DROP CAST (app.status AS integer)", "(app.status AS integer)", MISSING),
    Change(
        "DROP CAST (app.status AS integer);"
        "CREATE CAST (app.status AS integer) WITH FUNCTION app.label(app.status) AS ASSIGNMENT",
        "(app.status AS integer)",
        "definition",
    ),
    # views
    Change("DROP VIEW app.large_orders", "app.large_orders", MISSING),
    Change("CREATE VIEW app.extra AS SELECT 1 AS one", "app.extra", UNEXPECTED),
    Change(
        "CREATE OR REPLACE VIEW app.large_orders AS SELECT id, total FROM app.open_orders WHERE total > 200",
        "app.large_orders",
        "definition",
    ),
    Change(
        "CREATE OR REPLACE VIEW app.open_orders WITH (security_barrier) AS SELECT o.id, o.total, c.code, 1 AS more"
        " FROM app.orders o JOIN app.customers c ON c.id = o.customer_id WHERE o.status = 'new'",
        "app.open_orders",
        "definition",
    ),
    Change("ALTER VIEW app.open_orders RESET (security_barrier)", "app.open_orders", "option security_barrier"),
    Change("ALTER VIEW app.large_orders SET (check_option = local)", "app.large_orders", "option check_option"),
    Change("ALTER VIEW app.invoked RESET (security_invoker)", "app.invoked", "option security_invoker", since=15),
    Change("ALTER VIEW app.open_orders ALTER COLUMN total SET DEFAULT 5", "app.open_orders.total", "default"),
    Change("COMMENT ON VIEW app.open_orders IS NULL", "app.open_orders", "comment"),
    Change("COMMENT ON COLUMN app.open_orders.total IS NULL", "app.open_orders.total", "comment"),
    Change("REVOKE SELECT ON app.open_orders FROM catalog_reader", "app.open_orders", "grant to catalog_reader"),
    Change("DROP MATERIALIZED VIEW app.sums", "app.sums", MISSING),
    Change(
        "DROP MATERIALIZED VIEW app.sums; CREATE MATERIALIZED VIEW app.sums AS"
        " SELECT customer_id, max(total) AS total FROM app.orders GROUP BY customer_id;"
        "CREATE UNIQUE INDEX sums_customer ON app.sums (customer_id)",
        "app.sums",
        "definition",
    ),
    Change("REFRESH MATERIALIZED VIEW app.sums WITH NO DATA", "app.sums", "populated"),
    Change("ALTER MATERIALIZED VIEW app.sums SET (fillfactor = 50)", "app.sums", "option fillfactor"),
    # sequences
    Change("DROP SEQUENCE app.ticket_number", "app.ticket_number", MISSING),
    Change("CREATE SEQUENCE app.extra", "app.extra", UNEXPECTED, loses=True),
    Change("ALTER SEQUENCE app.ticket_number INCREMENT BY 7", "app.ticket_number", "increment"),
    Change("ALTER SEQUENCE app.ticket_number AS bigint", "app.ticket_number", "type"),
    Change("ALTER SEQUENCE app.ticket_number MAXVALUE 1000", "app.ticket_number", "maximum"),
    Change("ALTER SEQUENCE app.ticket_number MINVALUE -5", "app.ticket_number", "minimum"),
    Change("ALTER SEQUENCE app.ticket_number START WITH 200", "app.ticket_number", "start"),
    Change("ALTER SEQUENCE app.ticket_number CACHE 9", "app.ticket_number", "cache"),
    Change("ALTER SEQUENCE app.ticket_number CYCLE", "app.ticket_number", "cycle"),
    Change("ALTER SEQUENCE app.ticket_number OWNED BY app.tree.id", "app.ticket_number", "owned by"),
    Change("ALTER SEQUENCE app.orders_id_seq OWNED BY NONE", "app.orders_id_seq", "owned by"),
    Change("ALTER SEQUENCE app.orders_id_seq RENAME TO counter", "app.orders_id_seq", "name"),
    Change("ALTER SEQUENCE app.ticket_number SET UNLOGGED", "app.ticket_number", "persistence", since=15),
    Change(
        "REVOKE USAGE ON SEQUENCE app.ticket_number FROM catalog_writer", "app.ticket_number", "grant to catalog_writer"
    ),
    Change("COMMENT ON SEQUENCE app.ticket_number IS NULL", "app.ticket_number", "comment"),
    # types and domains
    Change("ALTER TYPE app.status RENAME VALUE 'sent' TO 'gone'", "app.status", "labels"),
    Change("ALTER TYPE app.status ADD VALUE 'lost' AFTER 'paid'", "app.status", "labels", loses=True),
    Change("CREATE TYPE app.extra AS ENUM ('a')", "app.extra", UNEXPECTED),
    Change("COMMENT ON TYPE app.status IS NULL", "app.status", "comment"),
    Change("DROP TYPE app.price_range", "app.price_range", MISSING),
    Change(
        "DROP TYPE app.price_range; CREATE TYPE app.price_range AS RANGE (SUBTYPE = integer)",
        "app.price_range",
        "definition",
    ),
    Change("ALTER TYPE app.address ADD ATTRIBUTE zip text", "app.address.zip", UNEXPECTED, loses=True),
    Change("ALTER TYPE app.address DROP ATTRIBUTE town", "app.address.town", MISSING),
    Change("ALTER TYPE app.address RENAME ATTRIBUTE town TO city", "app.address.town", "name"),
    Change("ALTER DOMAIN app.email SET NOT NULL", "app.email", "not null"),
    Change("ALTER DOMAIN app.amount DROP NOT NULL", "app.amount", "not null"),
    Change("ALTER DOMAIN app.email DROP DEFAULT", "app.email", "default"),
    Change(
        "ALTER DOMAIN app.amount RENAME CONSTRAINT amount_not_null TO needed",
        "app.amount",
        "name of not null",
        since=17,
    ),
    Change("ALTER DOMAIN app.email ADD CONSTRAINT needed NOT NULL", "app.email", "not null", since=17),
    Change("ALTER DOMAIN app.email DROP CONSTRAINT email_has_at", "app.email.email_has_at", MISSING),
    Change("ALTER DOMAIN app.email ADD CHECK (VALUE <> '@')", "app.email.email_check", UNEXPECTED),
    Change("ALTER DOMAIN app.email RENAME CONSTRAINT email_has_at TO has_at", "app.email.email_has_at", "name"),
    Change(
        "ALTER DOMAIN app.email DROP CONSTRAINT email_has_at;"
        "ALTER DOMAIN app.email ADD CONSTRAINT email_has_at CHECK (VALUE ~ '@') NOT VALID",
        "app.email.email_has_at",
        "valid",
    ),
    Change("DROP DOMAIN app.amount; CREATE DOMAIN app.amount AS numeric(9, 2) NOT NULL", "app.amount", "type"),
    Change(
        "DROP TABLE app.priced CASCADE; DROP DOMAIN app.price; CREATE DOMAIN app.price AS numeric(9, 2) DEFAULT 1;"
        "CREATE TABLE app.priced (price app.price DEFAULT 2, prices app.price[]);"
        "CREATE VIEW app.prices AS SELECT price FROM app.priced",
        "app.price",
        "type",
        loses=True,
    ),
    Change(
        "ALTER DOMAIN app.email RENAME TO mail; CREATE DOMAIN app.email AS varchar(90) DEFAULT 'nobody@example.org'"
        " CONSTRAINT email_has_at CHECK (VALUE ~ '@'); GRANT USAGE ON TYPE app.email TO catalog_reader;"
        "ALTER TABLE app.customers ALTER COLUMN email TYPE app.email; DROP DOMAIN app.mail",
        "app.email",
        "type",
        loses=True,
    ),
    Change("ALTER DOMAIN app.price SET DEFAULT 3", "app.price", "default"),
    Change("REVOKE USAGE ON TYPE app.email FROM catalog_reader", "app.email", "grant to catalog_reader"),
    # collations and text search
    Change('CREATE COLLATION app.extra FROM "C"', "app.extra", UNEXPECTED),
    Change("DROP TEXT SEARCH CONFIGURATION app.search", "app.search", MISSING),
    Change("ALTER TEXT SEARCH CONFIGURATION app.search DROP MAPPING FOR word", "app.search", "mapping word"),
    Change(
        "ALTER TEXT SEARCH CONFIGURATION app.search ALTER MAPPING FOR word WITH pg_catalog.simple",
        "app.search",
        "mapping word",
    ),
    Change("ALTER TEXT SEARCH DICTIONARY app.stems (ACCEPT = false)", "app.stems", "definition"),
    # partitions and inheritance
    Change("DROP TABLE app.events_2026", "app.events_2026", MISSING),
    Change("ALTER TABLE app.events DETACH PARTITION app.events_2026", "app.events_2026", "partition of app.events"),
    Change(
        "ALTER TABLE app.events DETACH PARTITION app.events_2026;"
        "ALTER TABLE app.events ATTACH PARTITION app.events_2026 FOR VALUES FROM ('2025-01-01') TO ('2027-01-01')",
        "app.events_2026",
        "partition of app.events",
    ),
    Change(
        "CREATE TABLE app.extra PARTITION OF app.events FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
        "app.extra",
        UNEXPECTED,
        loses=True,
    ),
    Change("ALTER TABLE app.dogs NO INHERIT app.animals", "app.dogs", "inherits app.animals"),
    Change("DROP TABLE app.dogs", "app.dogs", MISSING),
    Change("ALTER TABLE app.animals ADD COLUMN legs integer", "app.animals.legs", UNEXPECTED, loses=True),
    # foreign tables, publications, extensions, default privileges
    Change("ALTER SERVER elsewhere OPTIONS (SET host 'near')", "elsewhere", "option host"),
    Change("ALTER SERVER elsewhere VERSION '2'", "elsewhere", "version"),
    Change("ALTER FOREIGN TABLE app.far OPTIONS (DROP table_name)", "app.far", "option table_name"),
    Change("ALTER FOREIGN TABLE app.far ALTER COLUMN id OPTIONS (SET key 'no')", "app.far.id", "option key"),
    Change("ALTER FOREIGN TABLE app.far ALTER COLUMN name SET NOT NULL", "app.far.name", "not null"),
    Change("DROP FOREIGN TABLE app.far", "app.far", MISSING),
    Change("DROP PUBLICATION news", "news", MISSING),
    Change("ALTER PUBLICATION news DROP TABLE app.first", "news", "table app.first"),
    Change("ALTER PUBLICATION news ADD TABLE app.tree", "news", "table app.tree"),
    Change("ALTER PUBLICATION news SET (publish = 'insert')", "news", "publish"),
    Change("ALTER PUBLICATION filtered SET TABLE app.tree (id) WHERE (id > 6)", "filtered", "table app.tree", since=15),
    Change("ALTER PUBLICATION wide DROP TABLES IN SCHEMA public", "wide", "schema public", since=15),
    Change("DROP EXTENSION plpgsql CASCADE", "plpgsql", MISSING),
    Change(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON SEQUENCES FROM catalog_reader",
        "FOR ROLE {role} IN SCHEMA public ON SEQUENCES",
        "grant to catalog_reader",
    ),
    Change(
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "FOR ROLE {role} ON FUNCTIONS",
        "grant to PUBLIC",
    ),
]


@pytest.fixture(scope="module")
def connection(server_conninfo: str, roles: None) -> Iterator[psycopg.Connection]:  # noqa: F811
    """One database for all changes: each is made in a transaction that is rolled back."""
    with fresh(server_conninfo) as conninfo:
        load(conninfo)
        with psycopg.connect(conninfo) as opened:
            yield opened


@pytest.fixture(scope="module")
def expected(connection: psycopg.Connection) -> Catalog:
    catalog = snapshot(connection)
    connection.rollback()
    return catalog


def drift(expected: Catalog, actual: Catalog) -> list[Difference]:
    return [difference for difference in compare(expected, actual) if difference.severity == "drift"]


def repair(connection: psycopg.Connection, differences: list[Difference], *, accept_loss: bool) -> None:
    """Run what is offered, in the order in which it is offered."""
    for statements in dict.fromkeys(difference.sql for difference in differences):
        assert statements, differences
        text = re.sub(r"(?m)^-- data loss: ", "", statements) if accept_loss else statements
        connection.execute(text.encode())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: re.sub(r"\W+", "-", change.does)[:70])
def test_a_change_is_found_and_repaired(connection: psycopg.Connection, expected: Catalog, change: Change) -> None:
    if not change.since <= connection.info.server_version // 10000 <= change.until:
        pytest.skip(f"needs PostgreSQL {change.since} to {change.until}")
    name = change.object.format(role=connection.info.user)
    try:
        connection.execute(change.does.encode())
        found = drift(expected, snapshot(connection))
        named = [
            difference for difference in found if (difference.object, difference.property) == (name, change.property)
        ]
        assert len(named) == 1, [(f.object, f.property) for f in found]
        assert named[0].expected != named[0].actual
        lossy = [difference.object for difference in found if "-- data loss: " in (difference.sql or "")]
        assert bool(lossy) == change.loses, [f.sql for f in found]
        repair(connection, found, accept_loss=change.loses)
        left = drift(expected, snapshot(connection))
        assert left == [], [f.sql for f in found]
    finally:
        connection.rollback()


@pytest.mark.parametrize("first", range(0, 20, 3))
def test_changes_made_together_are_repaired_together(
    connection: psycopg.Connection, expected: Catalog, first: int
) -> None:
    version = connection.info.server_version // 10000
    possible = [change for change in CHANGES if change.since <= version <= change.until]
    try:
        for change in possible[first::20]:
            # Some exclude each other: a table that is gone cannot be altered.
            with suppress(psycopg.Error), connection.transaction():
                connection.execute(change.does.encode())
        found = drift(expected, snapshot(connection))
        assert len(found) >= 6
        repair(connection, found, accept_loss=True)
        assert drift(expected, snapshot(connection)) == []
    finally:
        connection.rollback()
