"""What PostgreSQL clients expect a server to know about itself, over SQLite's schema.

:func:`install` makes it known on one connection: functions, the schemas ``pg_catalog`` and
``information_schema`` as attached databases of virtual tables, and table functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import apsw

from ha.wire.postgres.catalog.functions import register, register_random
from ha.wire.postgres.catalog.information_schema import PREFIX, VIEWS
from ha.wire.postgres.catalog.pg_catalog import TABLES
from ha.wire.postgres.catalog.series import TABLE_FUNCTIONS
from ha.wire.postgres.catalog.state import Catalogue, Identity
from ha.wire.postgres.catalog.vtab import Module, TableSpec

__all__ = ["Identity", "Installation", "install"]


class Installation:
    """The catalogue of one connection. Its tables cost milliseconds, so they wait for a query
    that names one."""

    def __init__(self, connection: apsw.Connection, state: Catalogue) -> None:
        self._connection = connection
        self._state = state
        self._attached = False

    def attach(self) -> bool:
        """Make the tables; False if they are there already. Works inside a transaction too."""
        if self._attached:
            return False
        self._attached = True
        for schema, specs in (("pg_catalog", TABLES), ("information_schema", VIEWS)):
            self._connection.execute(f"ATTACH ':memory:' AS {schema}")
            for spec in specs:
                module = f"ha_pg_{spec.name}"
                self._module(module, spec, eponymous=False)
                self._connection.execute(
                    f"CREATE VIRTUAL TABLE {schema}.{spec.name} USING {module}"
                )
        return True

    def _module(self, name: str, spec: TableSpec, *, eponymous: bool) -> None:
        self._connection.create_module(
            name,
            Module(spec, self._state.contents, self._state.oid_of(spec)),  # type: ignore[arg-type]
            use_bestindex_object=True,
            eponymous_only=eponymous,
            read_only=True,
        )

    def add_functions(self, clock: Callable[[], float]) -> None:
        register(self._connection, self._state, clock)
        register_random(self._connection)
        for spec in TABLE_FUNCTIONS:
            self._module(spec.name, spec, eponymous=True)


def install(
    connection: apsw.Connection, identity: Identity, clock: Callable[[], float] = time.time
) -> Installation:
    """Make the functions known on ``connection``, and the tables known on demand."""
    state = Catalogue(connection, identity)
    state.register("pg_catalog", TABLES, lambda name: name)
    state.register("information_schema", VIEWS, lambda name: name.removeprefix(PREFIX))
    installation = Installation(connection, state)
    installation.add_functions(clock)
    return installation
