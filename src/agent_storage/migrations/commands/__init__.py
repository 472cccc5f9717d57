"""The commands of `storage migrate` that are more than up, down and status."""
