"""A schema with something of everything, and that a snapshot of it does not depend on how it came to be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from agent_storage.catalog import Catalog, compare, snapshot

ROLES = ("catalog_reader", "catalog_writer")

# Statements are separated by empty lines; each group can be loaded as soon as what it refers to is there.
SCHEMA = """
CREATE SCHEMA app;
COMMENT ON SCHEMA app IS 'the application';
GRANT USAGE ON SCHEMA app TO catalog_reader;

CREATE COLLATION app.plain (PROVIDER = libc, LOCALE = 'C');

CREATE TYPE app.status AS ENUM ('new', 'paid', 'sent', 'don''t know');
COMMENT ON TYPE app.status IS 'where an order stands';

CREATE TYPE app.address AS (street text, town varchar(50));

CREATE TYPE app.price_range AS RANGE (SUBTYPE = numeric);

CREATE DOMAIN app.email AS text DEFAULT 'nobody@example.org' CONSTRAINT email_has_at CHECK (VALUE ~ '@');
GRANT USAGE ON TYPE app.email TO catalog_reader;

CREATE DOMAIN app.amount AS numeric(12, 2) NOT NULL;

CREATE DOMAIN app.price AS numeric(8, 2) DEFAULT 1;

CREATE TABLE app.priced (price app.price DEFAULT 2, prices app.price[]);

CREATE VIEW app.prices AS SELECT price FROM app.priced;

CREATE TYPE app.spot AS (x integer, y integer);

CREATE TABLE app.spots OF app.spot (x WITH OPTIONS NOT NULL, y WITH OPTIONS DEFAULT 5);

CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
COMMENT ON FUNCTION app.touch() IS 'sets updated_at';

CREATE FUNCTION app.next_code(prefix text DEFAULT 'C') RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT prefix || '1' $$;
REVOKE EXECUTE ON FUNCTION app.next_code(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.next_code(text) TO catalog_reader;

CREATE FUNCTION app.longer(a text, b text) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT length(a) > length(b) $$;

CREATE FUNCTION app.label(app.status) RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT length($1::text) $$;

CREATE FUNCTION app.joined(state text, value text) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT concat(state, value) $$;

CREATE AGGREGATE app.join_all(text) (SFUNC = app.joined, STYPE = text, INITCOND = '');

CREATE PROCEDURE app.tidy(days integer) LANGUAGE plpgsql AS $$ BEGIN PERFORM days; END $$;

CREATE FUNCTION app.notice_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;

CREATE OPERATOR app.>>> (FUNCTION = app.longer, LEFTARG = text, RIGHTARG = text);

CREATE CAST (app.status AS integer) WITH FUNCTION app.label(app.status);

CREATE TEXT SEARCH DICTIONARY app.stems (TEMPLATE = pg_catalog.simple, STOPWORDS = english);

CREATE TEXT SEARCH CONFIGURATION app.search (PARSER = pg_catalog."default");
ALTER TEXT SEARCH CONFIGURATION app.search ADD MAPPING FOR word, asciiword WITH app.stems;

CREATE SEQUENCE app.ticket_number AS integer START WITH 100 INCREMENT BY 5 CACHE 3;
COMMENT ON SEQUENCE app.ticket_number IS 'on paper';
GRANT USAGE ON SEQUENCE app.ticket_number TO catalog_writer;

CREATE TABLE app.customers (
    id         bigint GENERATED ALWAYS AS IDENTITY (START WITH 10) PRIMARY KEY,
    code       text COLLATE app.plain NOT NULL DEFAULT app.next_code('X'),
    email      app.email,
    home       app.address,
    "Full Name" text,
    notes      text,
    settings   jsonb NOT NULL DEFAULT '{}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT customers_email_key UNIQUE (email)
) WITH (fillfactor = 80, autovacuum_enabled = false);
COMMENT ON TABLE app.customers IS 'who buys';
COMMENT ON COLUMN app.customers.code IS 'printed on letters';
ALTER TABLE app.customers ALTER COLUMN notes SET STORAGE EXTERNAL;
ALTER TABLE app.customers ALTER COLUMN notes SET STATISTICS 500;
ALTER TABLE app.customers ALTER COLUMN code SET (n_distinct = -0.5);
GRANT SELECT ON app.customers TO catalog_reader;
GRANT SELECT, INSERT, UPDATE ON app.customers TO catalog_writer WITH GRANT OPTION;
GRANT UPDATE (notes) ON app.customers TO catalog_reader;

CREATE TRIGGER set_timestamp BEFORE UPDATE ON app.customers FOR EACH ROW EXECUTE FUNCTION app.touch();
COMMENT ON TRIGGER set_timestamp ON app.customers IS 'keeps updated_at';

CREATE TABLE app.orders (
    id          serial PRIMARY KEY,
    customer_id bigint NOT NULL,
    status      app.status NOT NULL DEFAULT 'new',
    total       numeric(12, 2) NOT NULL DEFAULT 0,
    taxed       numeric GENERATED ALWAYS AS (total * 1.25) STORED,
    code        varchar(20),
    small       integer,
    note        text,
    placed      daterange,
    room        integer,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT orders_total_check CHECK (total >= 0),
    CONSTRAINT orders_customer_fk FOREIGN KEY (customer_id) REFERENCES app.customers (id) ON DELETE CASCADE,
    CONSTRAINT orders_code_key UNIQUE (code) DEFERRABLE,
    CONSTRAINT orders_no_overlap EXCLUDE USING gist (placed WITH &&) WHERE (room > 0)
);
COMMENT ON CONSTRAINT orders_total_check ON app.orders IS 'no negative money';
ALTER TABLE app.orders REPLICA IDENTITY FULL;

CREATE INDEX orders_status_idx ON app.orders (status, total DESC NULLS LAST) INCLUDE (note) WITH (fillfactor = 70);
COMMENT ON INDEX app.orders_status_idx IS 'for the list';

CREATE UNIQUE INDEX orders_small_key ON app.orders (small) WHERE small > 0;

CREATE INDEX orders_note_idx ON app.orders (lower(note) text_pattern_ops);
ALTER INDEX app.orders_note_idx ALTER COLUMN 1 SET STATISTICS 300;

CREATE INDEX orders_updated_idx ON app.orders USING brin (updated_at);

CREATE INDEX orders_cluster_idx ON app.orders (customer_id);
ALTER TABLE app.orders CLUSTER ON orders_cluster_idx;

CREATE STATISTICS app.orders_shape (dependencies) ON status, customer_id FROM app.orders;

CREATE RULE no_delete AS ON DELETE TO app.orders WHERE old.total > 100 DO INSTEAD NOTHING;

ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY;

CREATE POLICY own_orders ON app.orders FOR SELECT TO catalog_reader USING (customer_id > 0);

CREATE POLICY write_orders ON app.orders AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (total < 1000);

CREATE TABLE app.tree (
    id     integer PRIMARY KEY,
    parent integer REFERENCES app.tree (id) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE app.first (id integer PRIMARY KEY, second_id integer);

CREATE TABLE app.second (id integer PRIMARY KEY, first_id integer REFERENCES app.first (id));

ALTER TABLE app.first ADD CONSTRAINT first_second_fk FOREIGN KEY (second_id) REFERENCES app.second (id);

CREATE UNLOGGED TABLE app.cache (key text PRIMARY KEY, value text COLLATE app.plain);

CREATE TABLE app.checked (value integer);
ALTER TABLE app.checked ADD CONSTRAINT checked_positive CHECK (value > 0) NOT VALID;

CREATE VIEW app.open_orders WITH (security_barrier = true) AS
    SELECT o.id, o.total, c.code FROM app.orders o JOIN app.customers c ON c.id = o.customer_id WHERE o.status = 'new';
COMMENT ON VIEW app.open_orders IS 'to do';
COMMENT ON COLUMN app.open_orders.total IS 'with tax';
GRANT SELECT ON app.open_orders TO catalog_reader;

CREATE VIEW app.large_orders AS SELECT id, total FROM app.open_orders WHERE total > 100;

CREATE FUNCTION app.insert_open() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;

CREATE TRIGGER instead INSTEAD OF INSERT ON app.open_orders FOR EACH ROW EXECUTE FUNCTION app.insert_open();

CREATE MATERIALIZED VIEW app.sums AS SELECT customer_id, sum(total) AS total FROM app.orders GROUP BY customer_id;

CREATE UNIQUE INDEX sums_customer ON app.sums (customer_id);

CREATE TABLE app.events (
    id   bigint NOT NULL,
    at   date NOT NULL,
    kind text DEFAULT 'x',
    CONSTRAINT events_pkey PRIMARY KEY (id, at),
    CONSTRAINT events_kind_check CHECK (kind <> '')
) PARTITION BY RANGE (at);

CREATE INDEX events_kind_idx ON app.events (kind);

CREATE TABLE app.events_2026 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');

CREATE TABLE app.events_rest PARTITION OF app.events DEFAULT;

CREATE FUNCTION app.watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;

CREATE TRIGGER watch_events AFTER INSERT ON app.events FOR EACH ROW EXECUTE FUNCTION app.watch();

CREATE TABLE app.animals (name text NOT NULL, CONSTRAINT animals_name_check CHECK (name <> ''));

CREATE TABLE app.dogs (breed text) INHERITS (app.animals);

CREATE FOREIGN DATA WRAPPER catalog_wrapper;

CREATE SERVER elsewhere VERSION '1' FOREIGN DATA WRAPPER catalog_wrapper OPTIONS (host 'far.example.org');

CREATE FOREIGN TABLE app.far (id integer OPTIONS (key 'yes'), name text) SERVER elsewhere OPTIONS (table_name 'near');

CREATE EVENT TRIGGER watch_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION app.notice_ddl();

CREATE PUBLICATION news FOR TABLE app.customers, app.first WITH (publish = 'insert, update');

ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON SEQUENCES TO catalog_reader;

CREATE TABLE public."Odd Name" ("select" integer PRIMARY KEY, "a "" b" text DEFAULT 'it''s' CHECK ("a "" b" <> ''));
COMMENT ON COLUMN public."Odd Name"."a "" b" IS '100% ''odd''';

CREATE INDEX "an "" index" ON public."Odd Name" ("a "" b") WITH (fillfactor = 90) WHERE "select" > 1
"""

# What only newer servers have; loaded where it can be.
SINCE_15 = """
CREATE VIEW app.invoked WITH (security_invoker = true) AS SELECT id FROM app.tree;

CREATE TABLE app.distinct_nulls (a integer, CONSTRAINT distinct_nulls_key UNIQUE NULLS NOT DISTINCT (a));

CREATE TABLE app.pairs (a integer, b integer, PRIMARY KEY (a, b));

CREATE TABLE app.uses_pairs (
    a integer, b integer, FOREIGN KEY (a, b) REFERENCES app.pairs (a, b) ON DELETE SET NULL (b)
);

CREATE PUBLICATION filtered FOR TABLE app.tree (id) WHERE (id > 5);

CREATE PUBLICATION wide FOR TABLES IN SCHEMA public
"""
SINCE_18 = """
CREATE TABLE app.modern (
    id      integer CONSTRAINT modern_id_is_there NOT NULL,
    doubled integer GENERATED ALWAYS AS (id * 2) VIRTUAL,
    other   integer
);

CREATE TABLE app.lax (id integer, CONSTRAINT lax_id_check CHECK (id > 0) NOT ENFORCED);

CREATE TABLE app.periods (
    id int4range, during daterange, CONSTRAINT periods_pkey PRIMARY KEY (id, during WITHOUT OVERLAPS)
)
"""


def groups(version: int) -> list[str]:
    """The parts of the schema that a server of this version can hold."""
    parts = [SCHEMA, *([SINCE_15] if version >= 150000 else []), *([SINCE_18] if version >= 180000 else [])]
    return [group.strip() for part in parts for group in part.split("\n\n")]


def load(conninfo: str, *, backwards: bool = False) -> None:
    """Load the schema; what refers to something that is not there yet is tried again later."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        waiting = groups(connection.info.server_version)
        if backwards:
            waiting.reverse()
        while waiting:
            later = [group for group in waiting if not _loaded(connection, group)]
            assert len(later) < len(waiting), later[0]
            waiting = later


def _loaded(connection: psycopg.Connection, group: str) -> bool:
    missing = (
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedObject,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.InvalidSchemaName,
        psycopg.errors.UndefinedColumn,
        psycopg.errors.ObjectNotInPrerequisiteState,
    )
    try:
        with connection.transaction():
            connection.execute(group.encode())
    except missing:
        return False
    return True


@pytest.fixture(scope="module", autouse=True)
def roles(server_conninfo: str) -> Iterator[None]:
    """The roles that the schema grants to."""
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        for role in ROLES:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        yield
        for role in ROLES:
            # A database of another run may still grant to it.
            with suppress(psycopg.errors.DependentObjectsStillExist):
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@contextmanager
def fresh(server_conninfo: str) -> Iterator[str]:
    """An empty database for a while."""
    name = sql.Identifier(f"catalog_{uuid4().hex[:12]}")
    with psycopg.connect(server_conninfo, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        try:
            yield make_conninfo(server_conninfo, dbname=name.as_string().strip('"'))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def other(server_conninfo: str) -> Iterator[str]:
    """A second empty database."""
    with fresh(server_conninfo) as conninfo:
        yield conninfo


def read(conninfo: str) -> Catalog:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return snapshot(connection)


def drift(expected: Catalog, actual: Catalog) -> list[tuple[str, str, str | None, str | None]]:
    found = compare(expected, actual)
    return [(f.object, f.property, f.expected, f.actual) for f in found if f.severity == "drift"]


def test_the_schema_is_equal_after_loading_it_in_another_order(database: str, other: str) -> None:
    load(database)
    load(other, backwards=True)
    assert drift(read(database), read(other)) == []
    assert read(database) == read(other)


def client(server: psycopg.Connection, name: str) -> str:
    """A client program of the server's own version, looked for where servers are installed."""
    major = server.info.server_version // 10000
    folder = server.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    places = [os.environ.get("PG_BIN"), folder and folder[0], *os.environ.get("PATH", "").split(os.pathsep)]
    for place in places:
        found = shutil.which(name, path=place) if place else None
        if found:
            version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
            if f" {major}." in version:
                return found
    pytest.skip(f"no {name} of PostgreSQL {major} on this machine")


def test_the_schema_is_equal_after_dump_and_restore(database: str, other: str, tmp_path: Path) -> None:
    load(database)
    with psycopg.connect(database, autocommit=True) as connection:
        pg_dump, psql = client(connection, "pg_dump"), client(connection, "psql")
    dump = tmp_path / "dump.sql"
    subprocess.run([pg_dump, "--dbname", database, "--file", dump], check=True, capture_output=True)
    subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", other, "--file", dump],
        check=True,
        capture_output=True,
    )
    assert drift(read(database), read(other)) == []
    assert read(database) == read(other)


def test_a_table_grown_by_alterations_equals_a_fresh_one(database: str, other: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE grown (a integer PRIMARY KEY, b text NOT NULL DEFAULT 'x', c bigint UNIQUE)")
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("CREATE TABLE grown (gone text, c smallint, a integer, away bytea)")
        connection.execute("ALTER TABLE grown DROP COLUMN gone, ADD PRIMARY KEY (a), ALTER COLUMN c TYPE bigint")
        connection.execute("ALTER TABLE grown ADD COLUMN b text, DROP COLUMN away, ADD UNIQUE (c)")
        connection.execute("ALTER TABLE grown ALTER COLUMN b SET NOT NULL, ALTER COLUMN b SET DEFAULT 'x'")
    expected, actual = read(database), read(other)
    assert drift(expected, actual) == []
    assert expected == actual
    found = [(f.object, f.property, f.expected, f.actual, f.severity) for f in compare(expected, actual)]
    assert found == [("public.grown", "column order", "a, b, c", "c, a, b", "info")]


def test_a_whole_schema_is_made_from_its_findings(database: str, other: str) -> None:
    load(database)
    expected = read(database)
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("CREATE FOREIGN DATA WRAPPER catalog_wrapper")
        # What several differences of an object say alike is run once.
        for statements in dict.fromkeys(difference.sql for difference in compare(expected, snapshot(connection))):
            if statements:
                connection.execute(statements.encode())
    assert drift(expected, read(other)) == []
