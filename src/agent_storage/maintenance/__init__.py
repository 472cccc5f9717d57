"""What is run beside the work: `storage check` and the rotation of keys."""
