"""Maintenance tasks: `storage check` and the rotation of keys."""
