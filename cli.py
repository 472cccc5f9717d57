"""In a checkout, `python cli.py …` equals `storage …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from agent_storage.cli import main

if __name__ == "__main__":
    sys.exit(main())
