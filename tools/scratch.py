"""Run a command on a temporary embedded server: `python tools/scratch.py storage check`.

So the checks of this repository neither need nor change a developer's data.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run the command. Return its exit code."""
    with tempfile.TemporaryDirectory(prefix="storage-check-") as folder:
        Path(folder).chmod(0o755)  # as root, the server runs under another account
        environment = {name: value for name, value in os.environ.items() if "DATABASE_URL" not in name}
        environment["STORAGE_DATA_DIR"] = str(Path(folder) / "data")
        program = Path(sys.executable).parent / sys.argv[1]
        return subprocess.run([program, *sys.argv[2:]], env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
