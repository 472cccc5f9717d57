"""Where the database is and how to talk to it: settings, the embedded server, the pool, values in and rows out."""
