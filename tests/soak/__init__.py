"""A mixed load of all domains on both faces, under random faults: `python -m tests.soak`."""
