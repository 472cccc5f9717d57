"""`python -m agent_storage.cli` equals `storage`."""

import sys

from agent_storage.cli import main

if __name__ == "__main__":
    sys.exit(main())
