"""Checks in shadow databases: drift, the declared schema, up-down-up."""
