"""`python -m agent_storage.cli` equals `storage`."""

from agent_storage.cli import main

main()
