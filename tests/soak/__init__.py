"""A mixed load of all domains on both faces, random faults, and invariants that hold throughout: `python -m tests.soak`."""
