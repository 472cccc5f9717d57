"""How often this process has been made by fork(): what a parent opened is not for its child.

A counter, since asking for the process's id at each call is a system call.
"""

from __future__ import annotations

import os

count: int = 0


def _one_more() -> None:
    global count
    count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_more)
