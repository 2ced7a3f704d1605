"""The dialect ``ha://`` of SQLAlchemy 2: its SQLite dialect over this driver::

    create_engine("ha://node1:8080/shop.db?token=…&address=node2:8080&address=node3:8080")

``address`` names further nodes, since SQLAlchemy's URLs have room for one host. All other
parameters are the driver's. ``isolation_level="AUTOCOMMIT"`` and ``"SERIALIZABLE"`` (the
default) are known.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL, Connection, reflection
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel
from sqlalchemy.pool import Pool, QueuePool

import ha.dbapi
from ha.dbapi.address import DEFAULT_PORT
from ha.store.parse import CONTROL_TABLES


class HaDialect(SQLiteDialect):
    """Its name stays ``sqlite``: all that is written for that dialect holds."""

    driver = "ha"
    default_paramstyle = "qmark"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return ha.dbapi

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        return QueuePool

    def create_connect_args(self, url: URL) -> tuple[list[str], dict[str, Any]]:
        host = url.host or "localhost"
        host = f"[{host}]" if ":" in host else host
        token = f"{quote(url.password or url.username or '', safe='')}@"
        query = [
            (name, value)
            for name, values in url.query.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        dsn = (
            f"ha://{token if len(token) > 1 else ''}{host}:{url.port or DEFAULT_PORT}/"
            f"{quote(url.database or '')}{'?' if query else ''}{urlencode(query)}"
        )
        return [dsn], {}

    def get_isolation_level_values(self, dbapi_connection: DBAPIConnection) -> list[IsolationLevel]:
        return ["SERIALIZABLE", "AUTOCOMMIT"]

    def get_isolation_level(self, dbapi_connection: DBAPIConnection) -> IsolationLevel:
        return "AUTOCOMMIT" if dbapi_connection.autocommit else "SERIALIZABLE"

    def set_isolation_level(self, dbapi_connection: DBAPIConnection, level: IsolationLevel) -> None:
        dbapi_connection.autocommit = level == "AUTOCOMMIT"

    def get_default_isolation_level(self, dbapi_conn: DBAPIConnection) -> IsolationLevel:
        return "SERIALIZABLE"

    def detect_autocommit_setting(self, dbapi_conn: DBAPIConnection) -> bool:
        return bool(dbapi_conn.autocommit)

    def _get_server_version_info(self, connection: Connection) -> tuple[int, ...]:
        version = connection.exec_driver_sql("SELECT sqlite_version()").scalar_one()
        return tuple(map(int, version.split(".")))

    @reflection.cache
    def get_table_names(  # type: ignore[override]
        self, connection: Connection, schema: str | None = None, **kw: Any
    ) -> list[str]:
        """Without the tables that a node keeps for itself."""
        names = super().get_table_names(connection, schema, **kw)  # type: ignore[no-untyped-call]
        return [name for name in names if name not in CONTROL_TABLES]

    def do_ping(self, dbapi_connection: DBAPIConnection) -> bool:
        dbapi_connection.ping()
        return True

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:
        """The driver connects again by itself; the pool must not keep what it has lost."""
        return isinstance(e, ha.dbapi.ConnectionLost)


dialect = HaDialect
