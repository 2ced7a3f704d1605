"""Reads the schema that a session sees, and keeps it until it changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.engine.api import SessionApi, Status
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

_LIST = """
SELECT l.name, l.schema, l.type, coalesce(m.sql, '')
FROM pragma_table_list AS l
LEFT JOIN sqlite_schema AS m ON m.name = l.name AND m.type IN ('table', 'view')
WHERE l.schema IN ('main', 'temp')
ORDER BY l.schema = 'temp' DESC, l.name
"""

_COLUMNS = """
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
    schema = build(version, await _columns(session))
    schema.system = _system()
    known[session.database_id] = schema
    return schema


async def _columns(session: SessionApi) -> list[tuple[Value, ...]]:
    try:
        return await _all(session, _COLUMNS)
    except HaError as error:
        if session.status is Status.ABORTED or error.code not in _BROKEN:
            raise
    return await _columns_one_by_one(session)


async def _columns_one_by_one(session: SessionApi) -> list[tuple[Value, ...]]:
    """A view whose tables are gone has no columns, and must not hide those of all others."""
    out: list[tuple[Value, ...]] = []
    sql = "SELECT name, type FROM pragma_table_xinfo(?, ?) WHERE hidden <> 1 ORDER BY cid"
    for name, schema, kind, text in await _all(session, _LIST):
        try:
            columns = await _all(session, sql, [name, schema])
        except HaError as error:
            if error.code not in _BROKEN:
                raise
            continue
        out.extend((name, kind, text, *column) for column in columns)
    return out


_BROKEN = (
    Code.UNKNOWN_TABLE,
    Code.UNKNOWN_COLUMN,
    Code.UNKNOWN_FUNCTION,
    Code.SQL_ERROR,
    Code.SYNTAX_ERROR,
)


async def _all(
    session: SessionApi, sql: str, params: Sequence[Value] = ()
) -> list[tuple[Value, ...]]:
    async with session.query(sql, params or None) as rows:
        found: list[tuple[Value, ...]] = []
        while batch := await rows.fetch(1000):
            found.extend(batch)
    return found


async def _version(session: SessionApi) -> int:
    return hash(tuple(await _all(session, _TEXTS)))
