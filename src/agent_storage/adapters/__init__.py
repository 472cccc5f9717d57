"""Interfaces of the field, served over the repositories."""
