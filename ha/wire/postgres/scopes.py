"""What names mean inside of one query, and the type that several have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ha.wire.postgres import oids as t
from ha.wire.postgres.oids import PgType


def unify(types: Iterable[PgType | None]) -> PgType | None:
    """The type that holds all of ``types``; None where nothing is known (NULL alone)."""
    known = {kind for kind in types if kind is not None}
    if not known:
        return None
    if len(known) == 1:
        return known.pop()
    if known <= t.NUMBERS | {t.BOOL}:
        if t.NUMERIC in known and not known & t.FLOATS:
            return t.NUMERIC
        return t.FLOAT8 if known & t.FLOATS else t.INT8
    if known <= {t.DATE, t.TIMESTAMP, t.TIMESTAMPTZ}:
        return t.TIMESTAMPTZ if t.TIMESTAMPTZ in known else t.TIMESTAMP
    if known <= {t.JSON, t.JSONB}:
        return t.JSON
    return t.TEXT


@dataclass(slots=True)
class Column:
    name: str
    type: PgType | None
    hole: bool = False
    """Stands for an unknown number of columns (``*`` of a source that is not known)."""


@dataclass(slots=True)
class Scope:
    """What names mean in one query. ``sources`` map lower-case aliases to columns."""

    parent: Scope | None = None
    sources: dict[str, list[Column]] = field(default_factory=dict)
    ctes: dict[str, list[Column]] = field(default_factory=dict)

    def cte(self, name: str) -> list[Column] | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope.parent
        return None

    def column(self, table: str, name: str) -> PgType | None:
        scope: Scope | None = self
        while scope is not None:
            for alias, columns in scope.sources.items():
                if table and alias != table:
                    continue
                for column in columns:
                    if column.name.lower() == name:
                        return column.type
            scope = scope.parent
        return t.INT8 if name in ("rowid", "oid", "_rowid_") else None


def renamed(columns: list[Column], names: Sequence[str]) -> list[Column]:
    return [
        Column(names[i] if i < len(names) else c.name, c.type, c.hole)
        for i, c in enumerate(columns)
    ]


def all_columns(sources: Iterable[list[Column]]) -> list[Column]:
    out: list[Column] = []
    for columns in sources:
        out.extend(columns or [Column("", None, hole=True)])
    return out
