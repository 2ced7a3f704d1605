"""A cross-shard query answers as one SQLite database would that holds the rows of all.

The queries are made up by hypothesis over a grammar; the oracle is one database, with the shard
of each row in a column of its own, so that joins can be kept within a shard.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import apsw
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st

from ha.core.errors import Code, HaError
from ha.engine.api import Result
from ha.engine.session import Session
from ha.log.memory import MemoryStream
from tests.unit.test_databases import node

Tables = dict[str, tuple[list[str], list[str]]]
EXAMPLES = int(os.environ.get("HA_SHARD_EXAMPLES", "200"))
SHARDS = ("a.db", "b.db", "c.db")
COLUMNS = "id INTEGER PRIMARY KEY, n NUMERIC, i INT, x TEXT COLLATE NOCASE, y TEXT, r REAL, any"
VALUES: dict[str, Sequence[str]] = {
    "n": ["NULL", "1", "2", "'3'", "2.5", "'z'", "-1"],
    "i": ["NULL", "0", "1", "2", "-3", "9007199254740993"],
    "x": ["NULL", "'a'", "'A'", "'b'", "'B '", "'1'", "1"],
    "y": ["NULL", "'a'", "'A'", "'b'", "''", "'1'", "'10'"],
    "r": ["NULL", "0.5", "1", "-2.25", "1e300", "3"],
    "any": ["NULL", "1", "1.0", "'1'", "x'31'", "'A'", "'a'", "x''", "2"],
}

row = st.tuples(*(st.sampled_from(v) for v in VALUES.values())).map(", ".join)
table = st.lists(row, max_size=6)
column = st.sampled_from(["id", "n", "i", "x", "y", "r", "any", "t.x", "t.any", '"y"'])
expression = st.one_of(
    column,
    column,
    st.sampled_from(
        [
            "n + 1", "coalesce(x, 'q')", "lower(y)", "typeof(any)", "x || y", "i % 3", "-r",
            "CASE WHEN i > 1 THEN x ELSE y END", "CAST(any AS TEXT)", "x COLLATE BINARY",
            "y COLLATE NOCASE", "x = y", "any IS NULL", "n IN (1, 2)", "i BETWEEN 0 AND 2",
            "x LIKE 'a%'", "length(any)", "iif(n > 1, 1, 0)", "max(i, n)", "any > 1", "n = '1'",
            "i = '1'", "x > 'A'", "quote(any)",
        ]
    ),
)  # fmt: skip
aggregate = st.one_of(
    st.just("count(*)"),
    st.builds("{}({})".format, st.sampled_from(["count", "sum", "total", "avg"]), column),
    st.builds("{}({})".format, st.sampled_from(["min", "max", "count"]), expression),
    st.builds("{}(DISTINCT {})".format, st.sampled_from(["count", "min", "sum"]), column),
    st.builds("group_concat({})".format, st.sampled_from(["id", "y", "x"])),
    st.builds("sum({}) FILTER (WHERE {})".format, st.just("i"), st.just("id > 1")),
    st.just("sum(i) + count(*)"),
    st.just("max(id) - min(id)"),
)
where = st.sampled_from(
    [
        "", "WHERE id > 1", "WHERE x = 'a'", "WHERE n > 1", "WHERE any = '1'",
        "WHERE y IS NOT NULL",
        "WHERE 0", "WHERE i IN (SELECT i FROM u WHERE id < 3)", "WHERE x LIKE 'b%' OR r < 2",
        "WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id AND u.x = t.x)",
    ]
)  # fmt: skip
direction = st.sampled_from(["", " DESC", " ASC", " NULLS LAST", " DESC NULLS FIRST"])


@st.composite
def query(draw: st.DrawFn) -> tuple[str, bool]:
    """The SQL, and whether its order is total."""
    source = draw(st.sampled_from(["t", "t", "t", "(SELECT * FROM t WHERE id < 5) AS t"]))
    condition = draw(where)
    tail = ""
    if draw(st.booleans()):
        items = draw(st.lists(expression, min_size=1, max_size=3))
        distinct = draw(st.sampled_from(["", "", "DISTINCT "]))
        ordered = draw(st.booleans())
        if ordered and not distinct:
            terms = [t + draw(direction) for t in draw(st.lists(expression, max_size=2))]
            # id and the shard make it total
            tail = " ORDER BY " + ", ".join([*terms, "id", "ha_shard"])
            if draw(st.booleans()):
                tail += draw(st.sampled_from([" LIMIT 3", " LIMIT 2 OFFSET 1", " LIMIT 1, 2"]))
        elif ordered:
            tail = " ORDER BY " + ", ".join(f"{n + 1}{draw(direction)}" for n in range(len(items)))
        sql = f"SELECT {distinct}{', '.join(items)} FROM {source} {condition}{tail}"
        return sql, bool(tail) and not distinct
    keys = draw(st.lists(expression, max_size=2, unique=True))
    # A key is shown by a function that all rows of its group agree on.
    shown = [f"hex(lower({k}))" if "typeof" not in k else k for k in keys]
    items = [*shown, *draw(st.lists(aggregate, min_size=1, max_size=3))]
    group = f" GROUP BY {', '.join(keys)}" if keys else ""
    having = ""
    if keys and draw(st.booleans()):
        having = f" HAVING {draw(aggregate)} > {draw(st.sampled_from(['0', '1', 'NULL']))}"
    return f"SELECT {', '.join(items)} FROM {source} {condition}{group}{having}", False


def normal(value: Any) -> Any:
    """Sums of floats depend on their order, in the last digits."""
    if isinstance(value, float) and math.isfinite(value):
        return ("real", float(f"{value:.9g}"))
    if isinstance(value, str) and "," in value:  # group_concat: the order of its rows is free
        return ("text", ",".join(sorted(value.split(","))))
    return (type(value).__name__, value)


def normal_rows(rows: Sequence[Sequence[Any]], ordered: bool) -> list[tuple[Any, ...]]:
    out = [tuple(map(normal, r)) for r in rows]
    return out if ordered else sorted(out, key=repr)


def oracle(tables: Tables, sql: str) -> Any:
    """One database that holds the union, in the order of the shards."""
    db = apsw.Connection(":memory:")
    for name, index in (("t", 0), ("u", 1)):
        db.execute(f"CREATE TABLE all_{name}({COLUMNS.replace('INTEGER PRIMARY KEY', 'INT')},"
                   " ha_shard TEXT)")  # fmt: skip
        for shard, rows in tables.items():
            for n, values in enumerate(rows[index], 1):
                db.execute(f"INSERT INTO all_{name} VALUES ({n}, {values}, '{shard}')")
        columns = "id, n, i, x, y, r, any, ha_shard"
        db.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM all_{name}")
    # What the shards do by themselves: rows meet rows of their own shard only.
    within = sql.replace("FROM u WHERE u.id", "FROM u WHERE u.ha_shard = t.ha_shard AND u.id")
    within = within.replace(
        "i IN (SELECT i FROM u WHERE id < 3)",
        "EXISTS (SELECT 1 FROM u WHERE u.ha_shard = t.ha_shard AND u.id < 3 AND u.i = t.i)",
    )
    return db.execute(within).fetchall()


async def compare(session: Session, tables: Tables, sql: str, ordered: bool) -> None:
    """Both refuse, or both answer the same."""
    expected: list[tuple[Any, ...]] | None = None
    refusal: HaError | None = None
    answer: Result | None = None
    try:
        expected = normal_rows(oracle(tables, sql), ordered)
    except apsw.Error as error:
        event(f"refused: {type(error).__name__}")
    try:
        answer = await session.execute(f"{sql} /*+ db=.* */")
    except HaError as error:
        refusal = error
    if answer is None:
        assert refusal is not None
        assert refusal.code is not Code.UNSUPPORTED, (sql, refusal.message)
        assert expected is None, (sql, refusal.message)
    else:
        event("answered")
        assert normal_rows(answer.rows, ordered) == expected, sql


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.tuples(*([st.tuples(table, table)] * len(SHARDS))),
    st.lists(query(), min_size=3, max_size=6),
)
def test_it_answers_as_one_database_would(
    contents: tuple[tuple[list[str], list[str]], ...], queries: list[tuple[str, bool]]
) -> None:
    tables = dict(zip(SHARDS, contents, strict=True))

    async def main() -> None:
        stream = MemoryStream(epoch="test")
        async with node(stream, None, memory=True, first=SHARDS[0]) as databases:
            for shard in SHARDS[1:]:
                await databases.create(shard)
            for shard, rows in tables.items():
                session = databases.session(shard, protocol="test")
                for name, of_table in zip("tu", rows, strict=True):
                    await session.execute(f"CREATE TABLE {name}({COLUMNS})")
                    for n, values in enumerate(of_table, 1):
                        await session.execute(f"INSERT INTO {name} VALUES ({n}, {values})")
                await session.aclose()
            session = databases.session(protocol="test")
            for sql, ordered in queries:
                await compare(session, tables, sql, ordered)
            await session.aclose()

    trio.run(main)
