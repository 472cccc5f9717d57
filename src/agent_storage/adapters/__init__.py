"""Interfaces that other software expects of its storage, served by the repositories of `Storage`."""
