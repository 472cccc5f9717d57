"""The catalog snapshot: what a database's schema is, and how two of them differ.

    expected, actual = snapshot(shadow), snapshot(live)
    for finding in compare(expected, actual):
        print(finding.kind, finding.object, finding.property, finding.expected, finding.actual, finding.sql)

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

Not modelled, but named in `Catalog.unmodelled`, so that one that comes or goes is drift: base types, operator classes
and families, conversions, languages, access methods, foreign-data wrappers, transforms, text search parsers and
templates, subscriptions, user mappings, security labels. Not looked at: members of extensions, the bookkeeping tables
of migrations, tablespaces, rows, how far sequences counted, roles, settings of the database, and whether an inherited
column was declared again.
"""

from __future__ import annotations

from agent_storage.catalog.compare import compare
from agent_storage.catalog.conversions import LOSS
from agent_storage.catalog.model import Catalog, Entry, Finding, Property
from agent_storage.catalog.snapshot import snapshot

__all__ = ["LOSS", "Catalog", "Entry", "Finding", "Property", "compare", "snapshot"]
