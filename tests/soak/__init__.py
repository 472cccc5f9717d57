"""A mixed load of all domains on both faces, under random faults, whose invariants always hold: `python -m tests.soak`."""
