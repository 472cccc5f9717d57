"""Migration files: names, directives, tokens, checksums, rules. Nothing here talks to a database."""
