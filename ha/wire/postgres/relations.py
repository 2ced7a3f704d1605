"""The schema of a database as type inference needs it: tables and views with declared types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ha.core.values import Value
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
    """``version`` is made from all texts of SQLite's schema; ``system`` are the tables of the
    catalogue by (schema, name)."""

    version: int
    relations: dict[str, Relation] = field(default_factory=dict)
    system: Mapping[tuple[str, str], Relation] = field(default_factory=dict)

    def get(self, name: str, schema: str = "") -> Relation | None:
        """By name; the catalogue's tables are found after the user's."""
        name, schema = name.lower(), schema.lower()
        if schema not in ("pg_catalog", "information_schema"):
            found = self.relations.get(name)
            if found is not None or schema:
                return found
        return self.system.get((schema or "pg_catalog", name))


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
