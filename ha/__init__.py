"""ha: a highly available SQLite."""

__version__ = "0.1.0"
