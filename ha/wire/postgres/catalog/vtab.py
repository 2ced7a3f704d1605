"""Read-only virtual tables over rows that Python makes. Source: https://sqlite.org/vtab.html.

A table is a list of columns and a function that lists rows. Equality constraints are served
from an index made on the fly, so that the joins of catalogue queries stay quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import apsw

from ha.core.values import Value

Row: TypeAlias = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class TableSpec:
    """``columns`` are (name, declared type); ``rows`` lists all rows for the state it is given.

    ``arguments`` hidden columns take what a table function is called with; another one,
    ``ordinality``, numbers its rows.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    rows: Callable[..., list[Row]]
    arguments: int = 0

    @property
    def ddl(self) -> str:
        parts = [f'"{name}" {kind}' for name, kind in self.columns]
        parts += [f'"ha_argument_{i}" hidden' for i in range(self.arguments)]
        parts.append("ordinality hidden" if self.arguments else "tableoid oid hidden")
        return f"CREATE TABLE x({', '.join(parts)})"


class Module:
    """What APSW calls a data source: makes the tables of one :class:`TableSpec`."""

    def __init__(
        self, spec: TableSpec, rows: Callable[[TableSpec], Contents], oid: int = 0
    ) -> None:
        self._spec = spec
        self._rows = rows
        self._oid = oid

    def Connect(self, *_: object) -> tuple[str, _Table]:  # noqa: N802
        return self._spec.ddl, _Table(self._spec, self._rows, self._oid)


class Contents:
    """The rows of a table at one moment, with an index for each column that was asked for."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._indexes: dict[int, dict[Value, list[Row]]] = {}

    def matching(self, column: int, value: Value) -> list[Row]:
        index = self._indexes.get(column)
        if index is None:
            index = self._indexes[column] = {}
            for row in self.rows:
                index.setdefault(row[column], []).append(row)
        if value is None:
            return []
        found = index.get(value)
        if found is not None:
            return found
        # SQLite's affinity may make '1' and 1 equal: let it look at all then.
        return [] if _exact(value, index) else self.rows


def _exact(value: Value, index: dict[Value, list[Row]]) -> bool:
    """True if no row can be equal to ``value`` by a conversion."""
    kinds = {type(k) for k in index if k is not None}
    return kinds <= {type(value)}


class _Table:
    def __init__(self, spec: TableSpec, rows: Callable[[TableSpec], Contents], oid: int) -> None:
        self._spec = spec
        self._rows = rows
        self._oid = oid

    def BestIndexObject(self, info: Any) -> bool:  # noqa: N802
        spec = self._spec
        width = len(spec.columns)
        taken: list[int] = []
        arguments = 0
        for i in range(info.nConstraint):
            if info.get_aConstraint_op(i) != apsw.SQLITE_INDEX_CONSTRAINT_EQ:
                continue
            column = info.get_aConstraint_iColumn(i)
            if column >= width + spec.arguments:
                continue  # ordinality or tableoid
            if column >= width:  # an argument of a table function must be known
                if not info.get_aConstraint_usable(i):
                    return False
                arguments += 1
            elif column < 0 or not info.get_aConstraint_usable(i) or spec.arguments or taken:
                continue
            taken.append(column)
            info.set_aConstraintUsage_argvIndex(i, len(taken))
            info.set_aConstraintUsage_omit(i, column >= width)
        info.idxStr = ",".join(map(str, taken))
        indexed = any(c < width for c in taken)
        info.estimatedCost = 5.0 if indexed else 1000.0
        info.estimatedRows = 3 if indexed else 500
        return True

    def Open(self) -> _Cursor:  # noqa: N802
        return _Cursor(self._spec, self._rows, self._oid)

    def Disconnect(self) -> None:  # noqa: N802
        pass


class _Cursor:
    def __init__(self, spec: TableSpec, rows: Callable[[TableSpec], Contents], oid: int) -> None:
        self._spec = spec
        self._oid = oid
        self._source = rows
        self._rows: Sequence[Row] = ()
        self._position = 0

    def Filter(self, _number: int, name: str, values: tuple[Any, ...]) -> None:  # noqa: N802
        spec = self._spec
        self._position = 0
        columns = [int(c) for c in name.split(",")] if name else []
        if spec.arguments:
            width = len(spec.columns)
            given: list[Any] = [None] * spec.arguments
            for column, value in zip(columns, values, strict=True):
                given[column - width] = value
            padding = tuple(given)
            self._rows = [(*row, *padding, i) for i, row in enumerate(spec.rows(*given), 1)]
            return
        contents = self._source(spec)
        self._rows = contents.matching(columns[0], values[0]) if columns else contents.rows

    def Eof(self) -> bool:  # noqa: N802
        return self._position >= len(self._rows)

    def Next(self) -> None:  # noqa: N802
        self._position += 1

    def Rowid(self) -> int:  # noqa: N802
        return self._position

    def Column(self, number: int) -> Value:  # noqa: N802
        if number < 0:
            return self._position
        row = self._rows[self._position]
        return row[number] if number < len(row) else self._oid

    def Close(self) -> None:  # noqa: N802
        self._rows = ()
