"""The databases besides PostgreSQL that keep checkpoints: how each is reached, and what its SQL writes differently."""
