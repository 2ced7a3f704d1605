"""SQLite through APSW: connections, capture of changes, apply, control tables."""
