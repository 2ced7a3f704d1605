"""What PostgreSQL clients expect a server to know about itself, over SQLite's schema.

:func:`install` makes it known on one connection: functions, and the tables of ``pg_catalog`` and
``information_schema`` as eponymous virtual tables, which need no schema and no transaction. A
translated statement names them without their schema.
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
from ha.wire.postgres.catalog.vtab import Module

__all__ = ["Identity", "install"]


def install(
    connection: apsw.Connection, identity: Identity, clock: Callable[[], float] = time.time
) -> None:
    """Make functions and catalogue known on ``connection``, for as long as it is open."""
    state = Catalogue(connection, identity)
    state.register("pg_catalog", TABLES, lambda name: name)
    state.register("information_schema", VIEWS, lambda name: name.removeprefix(PREFIX))
    register(connection, state, clock)
    register_random(connection)
    for spec in (*TABLE_FUNCTIONS, *TABLES, *VIEWS):
        connection.create_module(
            spec.name,
            Module(spec, state.contents, state.oid_of(spec)),  # type: ignore[arg-type]
            use_bestindex_object=True,
            eponymous_only=True,
            read_only=True,
        )
