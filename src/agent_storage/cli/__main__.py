"""`python -m agent_storage.cli` equals `storage`."""

from . import main

main()
