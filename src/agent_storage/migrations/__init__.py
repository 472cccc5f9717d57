"""The migration manager: plain SQL files, yoyo's tables, and what it takes to trust them at three in the morning.

Start with `agent_storage.migrations.manager.Migrator`; `storage migrate` is the same thing in a terminal.
"""
