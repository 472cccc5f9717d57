"""Everything that needs no I/O: records, types, declared statements, filters, pagination."""
