"""A DB-API 2.0 driver (PEP 249) for a cluster of nodes::

    import ha.dbapi

    with ha.dbapi.connect("ha://node1:8080,node2:8080/shop.db?token=…") as connection:
        connection.execute("INSERT INTO orders(item) VALUES (?)", ["tea"])

It speaks gRPC with one node; when that is gone, with the next one, and reads its own writes
there. :mod:`ha.dbapi.aio` is the same for trio and asyncio, :mod:`ha.dbapi.sqlalchemy` the
dialect ``ha://`` of SQLAlchemy.
"""

from __future__ import annotations

import ssl

from ha.dbapi.address import Address, Options, parse
from ha.dbapi.errors import (
    ConnectionLost,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from ha.dbapi.sync import Connection, Cursor
from ha.dbapi.types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Address",
    "Binary",
    "Connection",
    "ConnectionLost",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "Options",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "sqlite_version_info",
    "threadsafety",
]

apilevel = "2.0"
threadsafety = 1
"""Threads may share the module, but not connections."""
paramstyle = "qmark"
"""``?``; SQLite's own ``:name``, ``@name`` and ``$name`` work too, with a mapping."""
sqlite_version_info = (3, 54, 0)
"""The least version of SQLite that a node has inside."""


def connect(
    dsn: str = "ha://localhost:8080",
    *,
    database: str | None = None,
    token: str | None = None,
    autocommit: bool = False,
    tls: ssl.SSLContext | bool | None = None,
    connect_timeout: float | None = None,
    timeout: float | None = None,
    txseq: int = 0,
    consistency: str | None = None,
) -> Connection:
    """Connect to one of the nodes that ``dsn`` names: see :func:`ha.dbapi.address.parse`.

    ``timeout``: seconds that a statement may take. ``txseq``: a sequence not to read behind.
    Raises InterfaceError for an address that is none, OperationalError when no node answers.
    """
    options = parse(
        dsn,
        database=database,
        token=token,
        tls=tls,
        connect_timeout=connect_timeout,
        timeout=timeout,
        txseq=txseq,
        consistency=consistency,
    )
    return Connection(options, autocommit=autocommit)
