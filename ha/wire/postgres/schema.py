"""Reads the schema that a session sees, and keeps it until it changes."""

from __future__ import annotations

from functools import cache

from ha.core.values import Value
from ha.engine.api import SessionApi
from ha.wire.postgres import oids as t
from ha.wire.postgres.catalog.information_schema import PREFIX, VIEWS
from ha.wire.postgres.catalog.pg_catalog import TABLES
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.relations import Relation, Schema, build


@cache
def _system() -> dict[tuple[str, str], Relation]:
    out: dict[tuple[str, str], Relation] = {}
    for schema, specs, prefix in (
        ("pg_catalog", TABLES, ""),
        ("information_schema", VIEWS, PREFIX),
    ):
        for spec in specs:
            name = spec.name.removeprefix(prefix)
            columns: dict[str, PgType | None] = {n: t.of_declared(k) for n, k in spec.columns}
            out[schema, name] = Relation(name, "table", "", columns, list(columns))
    return out


_TEXTS = """
SELECT name, sql FROM main.sqlite_schema WHERE type IN ('table', 'view')
UNION ALL SELECT name, sql FROM temp.sqlite_schema WHERE type IN ('table', 'view')
"""

_QUERY = """
SELECT l.name, l.type, coalesce(m.sql, ''), x.name, x.type
FROM pragma_table_list AS l
LEFT JOIN sqlite_schema AS m ON m.name = l.name AND m.type IN ('table', 'view')
JOIN pragma_table_xinfo(l.name, l.schema) AS x
WHERE l.schema IN ('main', 'temp') AND x.hidden <> 1
ORDER BY l.schema = 'temp' DESC, l.name, x.cid
"""


async def read_schema(session: SessionApi, known: dict[str, Schema]) -> Schema:
    """The schema that ``session`` sees now; read again when it has changed.

    SQLite's cookie does not tell: a transaction that was rolled back gives its number back.
    Raises HaError.
    """
    version = await _version(session)
    cached = known.get(session.database_id)
    if cached is not None and cached.version == version:
        return cached
    schema = build(version, await _all(session, _QUERY))
    schema.system = _system()
    known[session.database_id] = schema
    return schema


async def _all(session: SessionApi, sql: str) -> list[tuple[Value, ...]]:
    async with session.query(sql) as rows:
        found: list[tuple[Value, ...]] = []
        while batch := await rows.fetch(1000):
            found.extend(batch)
    return found


async def _version(session: SessionApi) -> int:
    return hash(tuple(await _all(session, _TEXTS)))
