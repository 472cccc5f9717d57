"""A shop whose customers talk to agents."""
