"""The schema of a database as type inference needs it: tables and views with declared types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ha.core.values import Value
from ha.engine.api import SessionApi
from ha.wire.postgres import oids as t
from ha.wire.postgres.oids import PgType


@dataclass(slots=True)
class Relation:
    """``columns`` maps the lower-case name to the reported type; None: an expression of a view,
    whose type must be inferred from ``sql``. ``names`` are the columns in order, as written."""

    name: str
    kind: str
    sql: str
    columns: dict[str, PgType | None] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Schema:
    """``version`` is SQLite's schema cookie."""

    version: int
    relations: dict[str, Relation] = field(default_factory=dict)

    def get(self, name: str) -> Relation | None:
        return self.relations.get(name.lower())


_QUERY = """
SELECT l.name, l.type, coalesce(m.sql, ''), x.name, x.type
FROM pragma_table_list AS l
LEFT JOIN sqlite_schema AS m ON m.name = l.name AND m.type IN ('table', 'view')
JOIN pragma_table_xinfo(l.name, l.schema) AS x
WHERE l.schema IN ('main', 'temp', 'pg_catalog', 'information_schema') AND x.hidden <> 1
ORDER BY l.schema = 'temp' DESC, l.schema = 'main' DESC, l.name, x.cid
"""


def build(version: int, rows: Iterable[tuple[Value, ...]]) -> Schema:
    """From rows of (relation, kind, sql, column, declared type), the first relation wins."""
    schema = Schema(version)
    for name, kind, sql, column, decltype in rows:
        key = str(name).lower()
        relation = schema.relations.get(key)
        if relation is None:
            relation = schema.relations[key] = Relation(str(name), str(kind), str(sql))
        lower = str(column).lower()
        if lower in relation.columns:
            continue
        relation.names.append(str(column))
        unknown = relation.kind == "view" and not decltype
        relation.columns[lower] = None if unknown else t.of_declared(str(decltype or ""))
    return schema


async def read_schema(session: SessionApi, cache: dict[str, Schema]) -> Schema:
    """The schema that ``session`` sees now; read again when SQLite's cookie has changed.

    Raises HaError.
    """
    version = await _version(session)
    cached = cache.get(session.database_id)
    if cached is not None and cached.version == version:
        return cached
    async with session.query(_QUERY) as rows:
        found = []
        while batch := await rows.fetch(1000):
            found.extend(batch)
    schema = build(version, found)
    cache[session.database_id] = schema
    return schema


async def _version(session: SessionApi) -> int:
    async with session.query("PRAGMA schema_version") as rows:
        batch = await rows.fetch(1)
    value = batch[0][0] if batch else 0
    return value if isinstance(value, int) else 0
