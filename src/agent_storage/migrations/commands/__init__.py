"""The commands of `storage migrate` other than up, down and status."""
