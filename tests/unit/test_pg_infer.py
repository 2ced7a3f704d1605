"""What results and parameters are said to be, before a statement runs."""

from __future__ import annotations

import pytest

from ha.wire.postgres import oids as t
from ha.wire.postgres.infer import infer
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.relations import Schema, build

VIEW = "CREATE VIEW v AS SELECT id + 1 AS next, count(*) AS n, avg(price) AS a, name FROM t"


def schema() -> Schema:
    table = {
        "id": "INTEGER", "name": "TEXT", "price": "NUMERIC(10,2)", "ok": "BOOLEAN", "f": "REAL",
        "at": "TIMESTAMPTZ", "day": "DATE", "data": "BLOB", "doc": "JSON", "key": "UUID", "raw": "",
    }  # fmt: skip
    rows = [("t", "table", "", name, kind) for name, kind in table.items()]
    rows += [("v", "view", VIEW, name, "") for name in ("next", "n", "a")]
    rows.append(("v", "view", VIEW, "name", "TEXT"))
    return build(1, rows)


def columns(sql: str, width: int = 1, *, translated: bool = False) -> list[PgType]:
    found = infer(sql, schema(), [], width, translated=translated)
    assert found.columns is not None
    return [kind or t.TEXT for kind in found.columns]


def parameters(sql: str, count: int) -> list[PgType]:
    return infer(sql, schema(), [None] * count, None).parameters


EXPRESSIONS = [
    ("count(*)", t.INT8),
    ("length(name)", t.INT8),
    ("sum(id)", t.INT8),
    ("sum(f)", t.FLOAT8),
    ("sum(price)", t.NUMERIC),
    ("sum(raw)", t.NUMERIC),
    ("max(day)", t.DATE),
    ("min(f)", t.FLOAT8),
    ("max(id, f)", t.FLOAT8),
    ("avg(id)", t.FLOAT8),
    ("total(id)", t.FLOAT8),
    ("id = 1", t.BOOL),
    ("name LIKE 'a%' AND id > 1", t.BOOL),
    ("NOT ok", t.BOOL),
    ("id IN (1, 2)", t.BOOL),
    ("id BETWEEN 1 AND 2", t.BOOL),
    ("name IS NULL", t.BOOL),
    ("EXISTS (SELECT 1)", t.BOOL),
    ("id + 1", t.INT8),
    ("id / 2", t.INT8),
    ("id * 1.5", t.FLOAT8),
    ("price * id", t.NUMERIC),
    ("price * f", t.FLOAT8),
    ("name + 1", t.NUMERIC),
    ("-id", t.INT8),
    ("id & 1", t.INT8),
    ("name || id", t.TEXT),
    ("1", t.INT8),
    ("2.5", t.FLOAT8),
    ("'x'", t.TEXT),
    ("x'00'", t.BYTEA),
    ("NULL", t.TEXT),
    ("TRUE", t.BOOL),
    ("CAST(name AS INTEGER)", t.INT8),
    ("CAST(id AS TEXT)", t.TEXT),
    ("CAST(id AS REAL)", t.FLOAT8),
    ("CAST(name AS BLOB)", t.BYTEA),
    ("CAST(name AS DATE)", t.NUMERIC),  # SQLite's affinity: it makes a number of it
    ("CASE WHEN id > 1 THEN 1 ELSE 2 END", t.INT8),
    ("CASE WHEN id > 1 THEN 1 ELSE 2.5 END", t.FLOAT8),
    ("CASE id WHEN 1 THEN day END", t.DATE),
    ("coalesce(NULL, price, 0)", t.NUMERIC),
    ("ifnull(day, at)", t.TIMESTAMPTZ),
    ("nullif(id, 0)", t.INT8),
    ("iif(ok, 'a', 'b')", t.TEXT),
    ("(SELECT max(id) FROM t)", t.INT8),
    ("row_number() OVER (ORDER BY id)", t.INT8),
    ("sum(id) OVER (PARTITION BY name)", t.INT8),
    ("lag(day) OVER (ORDER BY id)", t.DATE),
    ("count(*) FILTER (WHERE ok)", t.INT8),
    ("group_concat(name)", t.TEXT),
    ("date('now')", t.DATE),
    ("datetime('now')", t.TIMESTAMP),
    ("CURRENT_TIMESTAMP", t.TIMESTAMPTZ),
    ("doc -> 'a'", t.JSON),
    ("doc ->> 'a'", t.TEXT),
    ("json_object('a', 1)", t.JSON),
    ("name COLLATE NOCASE", t.TEXT),
    ("unheard_of(id)", t.TEXT),
    ("no_such_column", t.TEXT),
]


@pytest.mark.parametrize(("expression", "kind"), EXPRESSIONS)
def test_expressions(expression: str, kind: PgType) -> None:
    assert columns(f"SELECT {expression} FROM t") == [kind]


QUERIES = [
    ("SELECT * FROM v", [t.INT8, t.INT8, t.FLOAT8, t.TEXT]),
    ("SELECT x.n, x.f2 FROM (SELECT count(*) AS n, f AS f2 FROM t) AS x", [t.INT8, t.FLOAT8]),
    ("WITH c AS (SELECT sum(f) AS s FROM t) SELECT s FROM c", [t.FLOAT8]),
    ("WITH c(q) AS (SELECT id FROM t) SELECT q + 1 FROM c", [t.INT8]),
    (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9)"
        " SELECT x FROM c",
        [t.INT8],
    ),
    ("SELECT id FROM t UNION ALL SELECT f FROM t", [t.FLOAT8]),
    ("VALUES (1, 'a'), (2.5, 'b')", [t.FLOAT8, t.TEXT]),
    ("SELECT a.id, b.n FROM t AS a LEFT JOIN v AS b ON a.id = b.n", [t.INT8, t.INT8]),
    ("SELECT u.*, t.ok FROM unknown AS u, t", [t.TEXT, t.TEXT, t.BOOL]),
    ("INSERT INTO t(id) VALUES (1) RETURNING id, f + 1", [t.INT8, t.FLOAT8]),
    ("UPDATE t SET id = 1 RETURNING ok, length(name)", [t.BOOL, t.INT8]),
    ("DELETE FROM t RETURNING day", [t.DATE]),
    ("SELECT value FROM generate_series(1, 3)", [t.INT8]),
    ("SELECT value FROM generate_series(1, 3, 0.5)", [t.FLOAT8]),
    ("SELECT value FROM generate_series('2024-01-01', '2024-01-03')", [t.TIMESTAMP]),
]


@pytest.mark.parametrize(("sql", "kinds"), QUERIES)
def test_queries(sql: str, kinds: list[PgType]) -> None:
    assert columns(sql, len(kinds)) == kinds


def test_casts_of_translated_statements_are_postgresqls() -> None:
    sql = "SELECT name::date, id::int4, name::bool, price::numeric(8,2), id::regclass FROM t"
    assert columns(sql, 5, translated=True) == [t.DATE, t.INT8, t.BOOL, t.NUMERIC, t.TEXT]


PARAMETERS = [
    ("SELECT * FROM t WHERE id = $1", [t.INT8]),
    ("SELECT * FROM t WHERE $1 = id", [t.INT8]),
    ("SELECT * FROM t WHERE day >= $1 AND at < $2", [t.DATE, t.TIMESTAMPTZ]),
    ("SELECT * FROM t WHERE name LIKE $1", [t.TEXT]),
    ("SELECT * FROM t WHERE f IN ($1, $2)", [t.FLOAT8, t.FLOAT8]),
    ("SELECT * FROM t WHERE id BETWEEN $1 AND $2", [t.INT8, t.INT8]),
    ("SELECT * FROM t WHERE (id, name) = ($1, $2)", [t.INT8, t.TEXT]),
    ("SELECT * FROM t WHERE id = ANY($1)", [t.array_of(t.INT8)]),
    ("SELECT * FROM t WHERE id IN (SELECT $1)", [t.TEXT]),
    ("SELECT * FROM t WHERE $1", [t.BOOL]),
    ("SELECT * FROM t WHERE $1 IS NULL OR id = $1", [t.INT8]),
    ("SELECT count(*) FROM t HAVING count(*) > $1", [t.INT8]),
    ("SELECT * FROM t LIMIT $1 OFFSET $2", [t.INT8, t.INT8]),
    ("SELECT $1::uuid, $2::text", [t.UUID, t.TEXT]),
    ("SELECT CAST($1 AS numeric)", [t.NUMERIC]),
    ("SELECT id + $1, price * $2, f - $3 FROM t", [t.INT8, t.NUMERIC, t.FLOAT8]),
    ("SELECT coalesce(day, $1) FROM t", [t.DATE]),
    ("SELECT CASE WHEN id = $1 THEN price ELSE $2 END FROM t", [t.INT8, t.NUMERIC]),
    ("SELECT name || $1 FROM t", [t.TEXT]),
    ("SELECT $1", [t.TEXT]),
    ("INSERT INTO t(id, ok, data) VALUES ($1, $2, $3)", [t.INT8, t.BOOL, t.BYTEA]),
    ("INSERT INTO t VALUES ($1, $2, $3)", [t.INT8, t.TEXT, t.NUMERIC]),
    ("INSERT INTO t(key, doc) SELECT $1, $2", [t.UUID, t.JSON]),
    (
        "INSERT INTO t(id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET f = $2 WHERE t.ok = $3",
        [t.INT8, t.FLOAT8, t.BOOL],
    ),
    ("UPDATE t SET price = $1, at = $2 WHERE id = $3", [t.NUMERIC, t.TIMESTAMPTZ, t.INT8]),
    ("UPDATE t SET (f, ok) = ($1, $2)", [t.FLOAT8, t.BOOL]),
    ("DELETE FROM t WHERE key = $1", [t.UUID]),
    ("REPLACE INTO t(id, day) VALUES ($1, $2)", [t.INT8, t.DATE]),
    ("SELECT * FROM v WHERE n = $1 AND next > $2", [t.INT8, t.INT8]),
    ("SELECT * FROM t AS a JOIN t AS b ON a.id = b.id AND b.day = $1", [t.DATE]),
    (
        "INSERT INTO t(name, ok) SELECT p0::VARCHAR, p1::BOOLEAN FROM"
        " (VALUES ($1, $2, 0), ($3, $4, 1)) AS s(p0, p1, n) ORDER BY n RETURNING t.id",
        [t.TEXT, t.BOOL, t.TEXT, t.BOOL],
    ),
]


@pytest.mark.parametrize(("sql", "kinds"), PARAMETERS)
def test_parameters(sql: str, kinds: list[PgType]) -> None:
    assert parameters(sql, len(kinds)) == kinds


def test_declared_parameters_are_kept() -> None:
    found = infer("SELECT * FROM t WHERE id = $1", schema(), [t.TEXT], None)
    assert found.parameters == [t.TEXT]


@pytest.mark.parametrize("sql", ["SELEC", "PRAGMA foreign_keys", "EXPLAIN SELECT 1", "((((", "'"])
def test_what_cannot_be_read_has_no_types(sql: str) -> None:
    found = infer(sql, schema(), [None], 2)
    assert found.parameters == [t.TEXT]
    assert found.columns is None


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("INTEGER", t.INT8), ("bigint", t.INT8), ("INT UNSIGNED", t.INT8), ("serial", t.INT8),
        ("varchar(20)", t.TEXT), ("CHARACTER VARYING (3)", t.TEXT), ("CLOB", t.TEXT),
        ("DOUBLE PRECISION", t.FLOAT8), ("float", t.FLOAT8), ("real", t.FLOAT8),
        ("DECIMAL(10, 2)", t.NUMERIC), ("numeric", t.NUMERIC), ("bool", t.BOOL),
        ("BLOB", t.BYTEA), ("bytea", t.BYTEA), ("date", t.DATE), ("datetime", t.TIMESTAMP),
        ("timestamp(3) with time zone", t.TIMESTAMPTZ), ("timestamp", t.TIMESTAMP),
        ("TIMESTAMP WITHOUT TIME ZONE", t.TIMESTAMP), ("json", t.JSON), ("JSONB", t.JSONB),
        ("uuid", t.UUID), ("", t.TEXT), (None, t.TEXT), ("POINT", t.TEXT), ("INTERVAL", t.TEXT),
        ("geometry", t.TEXT),
    ],
)  # fmt: skip
def test_declared_types(declared: str | None, kind: PgType) -> None:
    assert t.of_declared(declared) is kind
