"""The catalog snapshot: what a database's schema is, and how two of them differ.

    expected, actual = snapshot(shadow), snapshot(live)
    for finding in compare(expected, actual):
        print(finding.kind, finding.object, finding.property, finding.expected, finding.actual, finding.sql)

`Catalog.unmodelled` names what a database holds beyond what a snapshot reads.
"""

from __future__ import annotations

from agent_storage.migrations.catalog.compare import compare
from agent_storage.migrations.catalog.model import Catalog, Entry, Finding, Property
from agent_storage.migrations.catalog.snapshot import snapshot

__all__ = ["Catalog", "Entry", "Finding", "Property", "compare", "snapshot"]
