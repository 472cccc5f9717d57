"""Catalog snapshots: read the schema of a database, and compare two of them.

    expected, actual = snapshot(shadow), snapshot(live)
    for difference in compare(expected, actual):
        print(difference.object, difference.property, difference.expected, difference.actual, difference.sql)

Modelled, each with comments, grants and (as information) owners where PostgreSQL has them:

- schemas, extensions (name, schema, version), default privileges, publications, event triggers, foreign servers;
- tables: partitioned, partitions and their bounds, inheriting, typed, unlogged, foreign; access method, storage options
  (TOAST's too), replica identity, row-level security; columns with type, NOT NULL, default, generated, identity,
  collation, storage, compression, statistics target, options;
- constraints of every kind with NOT VALID, NOT ENFORCED, deferrability and the names of NOT NULL; indexes with their
  options, INVALID, CLUSTER, statistics targets, partition indexes; extended statistics;
- triggers, rules and their enabled state, policies; views and materialized views; sequences;
- functions, procedures, aggregates, operators, casts, collations, text search dictionaries and configurations;
- enums, composite types, ranges, domains and their constraints.

Not modelled, but named in `Catalog.unmodelled`, so that an added or removed one is drift: base types, operator classes
and families, conversions, languages, access methods, foreign-data wrappers, transforms, text search parsers and
templates, subscriptions, user mappings, security labels. Ignored: members of extensions, the tracking tables of
migrations, tablespaces, rows, values of sequences, roles, settings of the database, and whether an inherited column was
declared again.
"""

from __future__ import annotations

from agent_storage.catalog.compare import compare
from agent_storage.catalog.conversions import LOSS
from agent_storage.catalog.model import Catalog, Difference, Entry, Property
from agent_storage.catalog.snapshot import snapshot

__all__ = ["LOSS", "Catalog", "Difference", "Entry", "Property", "compare", "snapshot"]
