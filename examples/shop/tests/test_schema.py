"""The migrations, the declared schema, and the statements of the shop."""

from agent_storage.testing import (
    test_declarations_agree_with_the_schema,
    test_every_migration_comes_back,
    test_migrations_are_one_timeline,
    test_migrations_make_the_declared_schema,
)

__all__ = [
    "test_declarations_agree_with_the_schema",
    "test_every_migration_comes_back",
    "test_migrations_are_one_timeline",
    "test_migrations_make_the_declared_schema",
]
