"""SQLite's schema as objects with oids, read through one connection.

An oid is made from a name, so that it is the same on every connection and node: clients keep
it between statements.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import apsw

from ha.wire.postgres import oids as t
from ha.wire.postgres import relations
from ha.wire.postgres.catalog.constraints import Written, read_constraints
from ha.wire.postgres.infer import infer_view
from ha.wire.postgres.oids import PgType

PG_CATALOG = 11
PUBLIC = 2200
INFORMATION_SCHEMA = 13000
TEMPORARY = 13001
OWNER = 10
FIRST_OID = 16384


@dataclass(slots=True)
class Column:
    """``number`` counts from 1. ``default`` is SQL text. ``generated``: s stored, v virtual."""

    number: int
    name: str
    decltype: str
    type: PgType
    modifier: int
    not_null: bool
    default: str | None
    key: int
    generated: str = ""
    identity: bool = False


@dataclass(slots=True)
class Index:
    """``columns``: (attribute number, 0 for an expression; descending; collation)."""

    oid: int
    name: str
    unique: bool
    primary: bool
    columns: list[tuple[int, bool, str]]
    sql: str
    partial: str = ""
    expressions: list[str] = field(default_factory=list)
    implicit: bool = False


@dataclass(slots=True)
class Constraint:
    """``kind`` as in pg_constraint.contype: p, u, f, c. ``columns`` are attribute numbers."""

    oid: int
    name: str
    kind: str
    columns: list[int]
    index: int = 0
    target: str = ""
    target_columns: list[str] = field(default_factory=list)
    on_update: str = "a"
    on_delete: str = "a"
    deferred: bool = False
    text: str = ""


@dataclass(slots=True)
class Trigger:
    oid: int
    name: str
    sql: str


@dataclass(slots=True)
class Relation:
    """``kind`` as in pg_class.relkind: r table, v view."""

    oid: int
    name: str
    kind: str
    sql: str
    namespace: int
    columns: list[Column] = field(default_factory=list)
    indexes: list[Index] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)

    def column(self, name: str) -> Column | None:
        lower = name.lower()
        return next((c for c in self.columns if c.name.lower() == lower), None)


@dataclass(slots=True)
class Snapshot:
    """The user's relations, in order of their names."""

    relations: list[Relation]
    by_name: dict[str, Relation] = field(default_factory=dict)
    by_oid: dict[int, Relation] = field(default_factory=dict)
    index_by_oid: dict[int, tuple[Relation, Index]] = field(default_factory=dict)
    constraint_by_oid: dict[int, tuple[Relation, Constraint]] = field(default_factory=dict)
    trigger_by_oid: dict[int, tuple[Relation, Trigger]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for relation in self.relations:
            self.by_name.setdefault(relation.name.lower(), relation)
            self.by_oid[relation.oid] = relation
            for index in relation.indexes:
                self.index_by_oid[index.oid] = (relation, index)
            for constraint in relation.constraints:
                self.constraint_by_oid[constraint.oid] = (relation, constraint)
            for trigger in relation.triggers:
                self.trigger_by_oid[trigger.oid] = (relation, trigger)

    def index_named(self, name: str) -> Index | None:
        lower = name.lower()
        for _, index in self.index_by_oid.values():
            if index.name.lower() == lower:
                return index
        return None


class Oids:
    """Numbers for names: stable, and never the same one twice."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def of(self, kind: str, *names: str) -> int:
        text = "\0".join((kind, *(n.lower() for n in names)))
        oid = FIRST_OID + zlib.crc32(text.encode("utf-8", "replace")) % (2**31 - 2 * FIRST_OID)
        while oid in self._taken:
            oid += 1
        self._taken.add(oid)
        return oid


_MASTER = """
SELECT type, name, tbl_name, sql, 0 FROM main.sqlite_schema
UNION ALL SELECT type, name, tbl_name, sql, 1 FROM temp.sqlite_schema
"""


def fingerprint(connection: apsw.Connection) -> tuple[object, ...]:
    """Changes whenever the schema does, in a transaction that is rolled back too."""
    out: list[object] = []
    for row in connection.execute(_MASTER):
        out.append(hash(row))
    return tuple(out)


def read_snapshot(connection: apsw.Connection) -> Snapshot:
    oids = Oids()
    found: list[Relation] = []
    triggers: dict[str, list[tuple[str, str]]] = {}
    index_sql: dict[str, str] = {}
    rows = sorted(connection.execute(_MASTER), key=lambda r: (r[0], r[1]))
    for kind, name, table, sql, _temporary in rows:
        if kind == "trigger":
            triggers.setdefault(table.lower(), []).append((name, sql or ""))
        elif kind == "index":
            index_sql[name] = sql or ""
    for kind, name, _table, sql, temporary in rows:
        if kind not in ("table", "view") or hidden(name):
            continue
        relation = Relation(
            oids.of("class", name),
            name,
            "r" if kind == "table" else "v",
            sql or "",
            TEMPORARY if temporary else PUBLIC,
        )
        _read_columns(connection, relation)
        if kind == "table":
            written = read_constraints(relation.sql)
            _read_indexes(connection, relation, oids, index_sql, written)
            _read_foreign_keys(connection, relation, oids, written)
            _read_checks(relation, oids, written)
        for trigger, text in triggers.get(name.lower(), []):
            relation.triggers.append(Trigger(oids.of("trigger", name, trigger), trigger, text))
        found.append(relation)
    found.sort(key=lambda r: r.name)
    _infer_views(found)
    return Snapshot(found)


def _infer_views(found: list[Relation]) -> None:
    """SQLite tells no type for the expressions of a view."""
    rows = [(r.name, "table" if r.kind == "r" else "view", r.sql, c.name, c.decltype)
            for r in found for c in r.columns]  # fmt: skip
    schema = relations.build(0, rows)
    for r in found:
        known = schema.get(r.name)
        if r.kind != "v" or known is None:
            continue
        for column, kind in zip(r.columns, infer_view(known, schema), strict=False):
            if not column.decltype and kind is not None:
                column.type = kind


def hidden(name: str) -> bool:
    """SQLite's own tables, and the control tables of this system."""
    return name.startswith(("sqlite_", "ha_"))


def _read_columns(connection: apsw.Connection, relation: Relation) -> None:
    sql = 'SELECT cid, name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)'
    try:
        rows: list[Any] = connection.execute(sql, (relation.name,)).fetchall()
    except apsw.SQLError:
        return  # a view whose tables are gone
    keys = sum(1 for r in rows if r[5])
    for cid, name, decltype, not_null, default, key, hidden_kind in rows:
        if hidden_kind == 1:
            continue
        kind, modifier = catalogue_type(decltype or "")
        identity = bool(key) and keys == 1 and (decltype or "").upper() == "INTEGER"
        relation.columns.append(
            Column(
                number=cid + 1,
                name=name,
                decltype=decltype or "",
                type=kind,
                modifier=modifier,
                not_null=bool(not_null) or bool(key),
                default=default,
                key=key,
                generated={2: "v", 3: "s"}.get(hidden_kind, ""),
                identity=identity and relation.kind == "r",
            )
        )


def catalogue_type(decltype: str) -> tuple[PgType, int]:
    """What the declared name means to PostgreSQL, with the modifier that its length gives.

    The catalogue shows what was declared (``integer``); results are reported as what SQLite may
    hold (int8).
    """
    base, _, rest = decltype.partition("(")
    numbers = [int(n) for n in rest.rpartition(")")[0].split(",") if n.strip().isdigit()]
    suffix = rest.rpartition(")")[2]
    kind = t.by_sql_name(base + suffix) or t.of_declared(decltype)
    if kind.name == "float4" and base.strip().upper() == "REAL":
        kind = t.FLOAT4
    if kind in (t.VARCHAR, t.BPCHAR) and numbers:
        return kind, numbers[0] + 4
    if kind is t.BPCHAR:
        return kind, 5
    if kind is t.NUMERIC and numbers:
        return kind, ((numbers[0] << 16) | (numbers[1] if len(numbers) > 1 else 0)) + 4
    if kind in (t.TIMESTAMP, t.TIMESTAMPTZ, t.TIME) and numbers:
        return kind, numbers[0]
    return kind, -1


def _name_of(written: list[Written], kind: str, columns: Iterable[str]) -> str | None:
    wanted = tuple(c.lower() for c in columns)
    return next(
        (w.name for w in written if w.kind == kind and w.columns == wanted and w.name), None
    )


def _read_indexes(
    connection: apsw.Connection,
    relation: Relation,
    oids: Oids,
    texts: dict[str, str],
    written: list[Written],
) -> None:
    key = sorted((c for c in relation.columns if c.key), key=lambda c: c.key)
    if key:
        name = _name_of(written, "p", (c.name for c in key)) or f"{relation.name}_pkey"
        columns = [(c.number, False, "") for c in key]
        index = Index(oids.of("index", name), name, True, True, columns, "", implicit=True)
        relation.indexes.append(index)
        relation.constraints.append(
            Constraint(
                oids.of("constraint", relation.name, name),
                name,
                "p",
                [c.number for c in key],
                index.oid,
            )
        )
    lists = list(connection.execute("SELECT * FROM pragma_index_list(?)", (relation.name,)))
    for _seq, name, unique, origin, partial in reversed(lists):
        if origin == "pk":
            continue
        columns = [
            (max(cid, -1) + 1, bool(desc), coll)
            for _s, cid, _n, desc, coll, is_key in connection.execute(
                "SELECT * FROM pragma_index_xinfo(?)", (name,)
            )
            if is_key
        ]
        text = texts.get(name, "")
        if origin == "u":
            names = [relation.columns[n - 1].name for n, _, _ in columns if n > 0]
            name = _name_of(written, "u", names) or "_".join([relation.name, *names, "key"])
        index = Index(oids.of("index", name), name, bool(unique), False, columns, text)
        index.implicit = origin == "u"
        if partial:
            index.partial = _after_where(text)
        if any(n == 0 for n, _, _ in columns):
            index.expressions = _expressions(text)
        relation.indexes.append(index)
        if origin == "u":
            relation.constraints.append(
                Constraint(
                    oids.of("constraint", relation.name, name),
                    name,
                    "u",
                    [n for n, _, _ in columns],
                    index.oid,
                )
            )


def _after_where(sql: str) -> str:
    position = sql.upper().rfind(" WHERE ")
    return sql[position + 7 :].strip() if position >= 0 else ""


def _expressions(sql: str) -> list[str]:
    """The texts of the indexed columns, as they stand in CREATE INDEX."""
    start = sql.find("(", sql.upper().find(" ON "))
    out: list[str] = []
    depth, begin = 0, start + 1
    for i in range(start, len(sql)):
        if sql[i] == "(":
            depth += 1
        elif sql[i] == ")":
            depth -= 1
            if depth == 0:
                out.append(sql[begin:i].strip())
                break
        elif sql[i] == "," and depth == 1:
            out.append(sql[begin:i].strip())
            begin = i + 1
    return out


_ACTIONS = {"NO ACTION": "a", "RESTRICT": "r", "CASCADE": "c", "SET NULL": "n", "SET DEFAULT": "d"}


def _read_foreign_keys(
    connection: apsw.Connection, relation: Relation, oids: Oids, written: list[Written]
) -> None:
    groups: dict[int, list[tuple[object, ...]]] = {}
    for row in connection.execute("SELECT * FROM pragma_foreign_key_list(?)", (relation.name,)):
        groups.setdefault(row[0], []).append(row)
    for rows in reversed(list(groups.values())):
        rows.sort(key=lambda r: int(str(r[1])))
        names = [str(r[3]) for r in rows]
        columns = [c.number for c in (relation.column(n) for n in names) if c is not None]
        name = _name_of(written, "f", names) or "_".join([relation.name, *names, "fkey"])
        relation.constraints.append(
            Constraint(
                oids.of("constraint", relation.name, name),
                name,
                "f",
                columns,
                target=str(rows[0][2]),
                target_columns=[str(r[4]) for r in rows if r[4] is not None],
                on_update=_ACTIONS.get(str(rows[0][5]), "a"),
                on_delete=_ACTIONS.get(str(rows[0][6]), "a"),
            )
        )


def _read_checks(relation: Relation, oids: Oids, written: list[Written]) -> None:
    taken = {c.name for c in relation.constraints}
    for w in written:
        if w.kind != "c":
            continue
        base = w.name or "_".join([relation.name, *w.columns, "check"])
        name, n = base, 0
        while name in taken:
            n += 1
            name = f"{base}{n}"
        taken.add(name)
        columns = [c.number for c in (relation.column(n) for n in w.columns) if c is not None]
        relation.constraints.append(
            Constraint(oids.of("constraint", relation.name, name), name, "c", columns, text=w.text)
        )
