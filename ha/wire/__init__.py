"""Protocols. Each is a codec without I/O and a thin trio server; none knows another."""
