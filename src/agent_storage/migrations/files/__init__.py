"""Migration files: names, directives, tokens, checksums, lint rules. Nothing here connects to a database."""
