"""A migrated database for each test, with the tables of agent-storage and of the shop."""

pytest_plugins = ["agent_storage.testing"]
