"""Cross-shard queries: what the hint means, what is merged how, and what is refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ha.core.errors import Code, HaError
from ha.engine.api import Kind, Result, Statement
from ha.engine.databases import Databases
from ha.log.memory import MemoryStream
from tests.unit.test_databases import node

ROWS = {
    "shop_1.db": "(1,'ann',10,'x'),(2,'Bob',20,NULL),(3,'cid',NULL,'y')",
    "shop_2.db": "(1,'bob',5,'X'),(2,'dan',20.5,'z'),(9,NULL,7,x'00ff')",
    "other.db": "(100,'zoe',1,'x')",
}
SCHEMA = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, amount, tag)"


@asynccontextmanager
async def shards() -> AsyncIterator[Databases]:
    stream = MemoryStream(epoch="test")
    async with node(stream, None, memory=True, first="shop_1.db") as databases:
        for name in ("shop_2.db", "other.db"):
            await databases.create(name)
        for name, rows in ROWS.items():
            session = databases.session(name, protocol="test")
            await session.execute(SCHEMA)
            await session.execute(f"INSERT INTO t VALUES {rows}")
            await session.aclose()
        yield databases


async def run(databases: Databases, sql: str, params: object = None) -> Result:
    session = databases.session(protocol="test")
    try:
        return await session.execute(sql, params)  # type: ignore[arg-type]
    finally:
        await session.aclose()


HINT = "/*+ db=shop_ */"


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        (f"SELECT id {HINT} FROM t", [(1,), (2,), (3,), (1,), (2,), (9,)]),
        (f"{HINT} SELECT count(*) FROM t", [(6,)]),
        ("SELECT count(*) FROM t /*+ db=.* */", [(7,)]),
        ("SELECT count(*) FROM t /*+ db=_2\\.db$ */", [(3,)]),
        ("SELECT count(*) FROM t /*+ db=self */", [(3,)]),
        ("SELECT count(*) FROM t /*+ other=1 */", [(3,)]),
        ("SELECT count(*) FROM t /* db=.* */", [(3,)]),
        ("SELECT count(*), '/*+ db=.* */' FROM t", [(3, "/*+ db=.* */")]),
        (f"SELECT sum(amount), total(amount), min(amount), max(amount) FROM t {HINT}",
         [(62.5, 62.5, 5, 20.5)]),
        (f"SELECT avg(amount), count(amount) FROM t {HINT}", [(12.5, 5)]),
        (f"SELECT avg(amount), sum(amount), count(*), count(amount), max(id) FROM t {HINT}"
         " WHERE 0", [(None, None, 0, 0, None)]),
        (f"SELECT name, count(*), sum(amount) FROM t GROUP BY name ORDER BY name {HINT}",
         [(None, 1, 7), ("ann", 1, 10), ("Bob", 2, 25), ("cid", 1, None), ("dan", 1, 20.5)]),
        (f"SELECT name FROM t GROUP BY name HAVING count(*) > 1 {HINT}", [("Bob",)]),
        (f"SELECT DISTINCT name FROM t ORDER BY 1 {HINT}",
         [(None,), ("ann",), ("Bob",), ("cid",), ("dan",)]),
        (f"SELECT count(DISTINCT name) FROM t {HINT}", [(4,)]),
        (f"SELECT group_concat(id) FROM t {HINT}", [("1,2,3,1,2,9",)]),
        (f"SELECT group_concat(DISTINCT id) FROM t {HINT}", [("1,2,3,9",)]),
        (f"SELECT id, name FROM t ORDER BY name DESC NULLS LAST, id LIMIT 3 OFFSET 1 {HINT}",
         [(3, "cid"), (1, "bob"), (2, "Bob")]),
        (f"SELECT id + 1 AS next FROM t ORDER BY next DESC LIMIT 2 {HINT}", [(10,), (4,)]),
        (f"SELECT upper(name) AS name FROM t WHERE id = 1 ORDER BY name {HINT}",
         [("ANN",), ("BOB",)]),
        (f"SELECT * FROM t ORDER BY tag, id {HINT}",
         [(2, "Bob", 20, None), (1, "bob", 5, "X"), (1, "ann", 10, "x"), (3, "cid", None, "y"),
          (2, "dan", 20.5, "z"), (9, None, 7, b"\x00\xff")]),
        (f"SELECT id FROM t {HINT} LIMIT 2 OFFSET 2", [(3,), (1,)]),
        (f"SELECT id FROM t {HINT} LIMIT 1, 4", [(2,), (3,), (1,), (2,)]),
        (f"SELECT id FROM t {HINT} LIMIT -1 OFFSET 5", [(9,)]),
        (f"SELECT max(amount), name FROM t {HINT}", [(20.5, "dan")]),
        (f"SELECT ha_shard, id FROM t WHERE id = 2 {HINT}", [("shop_1.db", 2), ("shop_2.db", 2)]),
        (f"SELECT ha_shard, count(*) FROM t GROUP BY ha_shard ORDER BY ha_shard DESC {HINT}",
         [("shop_2.db", 3), ("shop_1.db", 3)]),
        (f"SELECT max(ha_shard), count(DISTINCT ha_shard) FROM t {HINT}", [("shop_2.db", 2)]),
        (f"SELECT count(*) FROM t WHERE ha_shard LIKE '%2%' {HINT}", [(3,)]),
        (f"SELECT typeof(amount), count(*) FROM t GROUP BY typeof(amount) ORDER BY 2, 1 {HINT}",
         [("null", 1), ("real", 1), ("integer", 4)]),
        (f"SELECT a.id FROM t AS a JOIN t AS b ON a.id = b.id - 1 ORDER BY a.id {HINT}",
         [(1,), (1,), (2,)]),
        (f"WITH w AS (SELECT id, name FROM t WHERE id < 3) SELECT count(*) FROM w {HINT}", [(4,)]),
        (f"SELECT count(*) FROM (SELECT id FROM t WHERE id < 3) {HINT}", [(4,)]),
        (f"SELECT id FROM t WHERE id IN (SELECT DISTINCT id FROM t WHERE tag = 'x') {HINT}",
         [(1,)]),
        (f"SELECT count(*) FILTER (WHERE id > 1) FROM t {HINT}", [(4,)]),
        (f"SELECT CASE WHEN id > 2 THEN 'big' ELSE 'small' END AS size, count(*) FROM t"
         f" GROUP BY size ORDER BY size {HINT}", [("big", 2), ("small", 4)]),
        (f"SELECT CAST(id AS TEXT) FROM t ORDER BY CAST(id AS TEXT) DESC LIMIT 1 {HINT}",
         [("9",)]),
        (f"SELECT id, id IS NOT DISTINCT FROM 1 FROM t WHERE id < 2 {HINT}", [(1, 1), (1, 1)]),
        (f"SELECT name COLLATE BINARY, count(*) FROM t GROUP BY name COLLATE BINARY"
         f" HAVING name LIKE 'b%' ORDER BY 1 {HINT}", [("Bob", 1), ("bob", 1)]),
    ],
)  # fmt: skip
async def test_it_answers_as_one_database_would(sql: str, rows: list[tuple[object, ...]]) -> None:
    async with shards() as databases:
        result = await run(databases, sql)
        assert result.rows == rows
        assert result.kind is Kind.READ


async def test_names_of_columns_are_those_of_one_database() -> None:
    async with shards() as databases:
        result = await run(
            databases,
            f"SELECT t.id, name AS n, amount + 1, *, count(*) c FROM t GROUP BY id {HINT}",
        )
        names = [c.name for c in result.columns]
        assert names == ["id", "n", "amount + 1", "id", "name", "amount", "tag", "c"]
        assert [c.decltype for c in result.columns][:2] == ["INTEGER", "TEXT"]
        result = await run(databases, f"SELECT ha_shard, id FROM t {HINT}")
        assert [c.name for c in result.columns] == ["ha_shard", "id"]


async def test_parameters_of_all_kinds() -> None:
    async with shards() as databases:
        sql = f"SELECT count(*), ? FROM t WHERE id >= ? AND id < ? {HINT} LIMIT ?"
        assert (await run(databases, sql, ["p", 2, 9, 5])).rows == [(3, "p")]
        sql = f"SELECT :b, id FROM t WHERE id = :a {HINT} ORDER BY id + :b LIMIT $c"
        assert (await run(databases, sql, {"a": 2, "b": 1, "c": 1})).rows == [(1, 2)]
        sql = f"SELECT ?2, id FROM t WHERE id = ?1 {HINT}"
        assert (await run(databases, sql, [2, "x"])).rows == [("x", 2), ("x", 2)]
        session = databases.session(protocol="test")
        prepared = await session.prepare(f"SELECT id FROM t WHERE id = :a AND name = ? {HINT}")
        assert prepared.parameters == ("a", None)
        assert (prepared.kind, prepared.verb) == (Kind.READ, "SELECT")
        prepared = await session.prepare(f"SELECT ha_shard {HINT} FROM t; SELECT 2")
        assert prepared.remaining == " SELECT 2"
        assert [c.name for c in prepared.columns] == ["ha_shard"]
        await session.aclose()


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        (f"SELECT row_number() OVER (ORDER BY id) FROM t {HINT}", Code.UNSUPPORTED, "window"),
        (f"SELECT sum(id) OVER w FROM t WINDOW w AS (ORDER BY id) {HINT}", Code.UNSUPPORTED,
         "WINDOW"),
        (f"SELECT * FROM (SELECT id FROM t LIMIT 2) {HINT}", Code.UNSUPPORTED,
         "LIMIT in a subquery"),
        (f"SELECT * FROM (SELECT max(id) FROM t) {HINT}", Code.UNSUPPORTED, "aggregate (max)"),
        (f"SELECT * FROM (SELECT DISTINCT id FROM t) {HINT}", Code.UNSUPPORTED, "DISTINCT in"),
        (f"SELECT id FROM t WHERE id = (SELECT max(id) FROM t) {HINT}", Code.UNSUPPORTED, "scalar"),
        (f"SELECT (SELECT 1) FROM t {HINT}", Code.UNSUPPORTED, "subquery outside"),
        (f"SELECT id FROM t WHERE id > ALL_OF(SELECT 1) {HINT}", Code.UNSUPPORTED, "scalar"),
        (f"SELECT id FROM t UNION SELECT id FROM t {HINT}", Code.UNSUPPORTED, "compound"),
        (f"WITH RECURSIVE n(i) AS (SELECT 1) SELECT * FROM n, t {HINT}", Code.UNSUPPORTED,
         "RECURSIVE"),
        (f"WITH w AS (SELECT count(*) c FROM t) SELECT * FROM w {HINT}", Code.UNSUPPORTED,
         "aggregate (count)"),
        (f"SELECT 1 {HINT}", Code.UNSUPPORTED, "reads no table"),
        (f"SELECT count(*) FROM json_each('[1,2]') {HINT}", Code.UNSUPPORTED, "reads no table"),
        (f"SELECT last_insert_rowid() FROM t {HINT}", Code.UNSUPPORTED, "last_insert_rowid"),
        (f"INSERT INTO t VALUES (7,7,7,7) {HINT}", Code.REFUSED, "INSERT"),
        (f"WITH w AS (SELECT 1) DELETE FROM t {HINT}", Code.REFUSED, "DELETE"),
        (f"UPDATE t SET tag = 1 RETURNING id {HINT}", Code.REFUSED, "UPDATE"),
        (f"PRAGMA table_info(t) {HINT}", Code.REFUSED, "PRAGMA"),
        (f"EXPLAIN SELECT 1 FROM t {HINT}", Code.REFUSED, "EXPLAIN"),
        (f"VALUES (1) {HINT}", Code.REFUSED, "VALUES"),
        ("SELECT id FROM t /*+ db=nothing */", Code.NOT_FOUND, "no database"),
        ("SELECT id FROM t /*+ db=( */", Code.BAD_REQUEST, "pattern"),
        (f"SELECT nope FROM t {HINT}", Code.UNKNOWN_COLUMN, "nope"),
        (f"SELECT id FROM nope {HINT}", Code.UNKNOWN_TABLE, "nope"),
        (f"SELECT id FROM t {HINT}; SELECT 2", Code.BAD_REQUEST, "one statement"),
    ],
)  # fmt: skip
async def test_what_cannot_be_merged_is_refused_by_name(sql: str, code: Code, words: str) -> None:
    async with shards() as databases:
        with pytest.raises(HaError) as info:
            await run(databases, sql)
        assert info.value.code is code, info.value.message
        assert words in info.value.message


async def test_views_are_looked_into() -> None:
    async with shards() as databases:
        for name in ROWS:
            session = databases.session(name, protocol="test")
            await session.execute("CREATE VIEW plain AS SELECT id, name FROM t WHERE id < 3")
            await session.execute("CREATE VIEW deep AS SELECT * FROM counted")
            await session.execute("CREATE VIEW counted AS SELECT count(*) AS n FROM t")
            await session.aclose()
        sql = f"SELECT name, count(*) FROM plain GROUP BY name ORDER BY 1 {HINT}"
        assert (await run(databases, sql)).rows == [("ann", 1), ("Bob", 2), ("dan", 1)]
        with pytest.raises(HaError, match=r"an aggregate \(count\) in the view counted"):
            await run(databases, f"SELECT * FROM deep {HINT}")


async def test_databases_that_differ_in_their_columns_are_named() -> None:
    async with shards() as databases:
        await databases.create("shop_3.db")
        session = databases.session("shop_3.db", protocol="test")
        await session.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, amount, more)")
        await session.aclose()
        with pytest.raises(HaError, match="other columns"):
            await run(databases, f"SELECT * FROM t ORDER BY id {HINT}")
        with pytest.raises(HaError, match=r"NOCASE in shop_1\.db and TEXT BINARY in shop_3\.db"):
            await run(databases, f"SELECT name FROM t ORDER BY name {HINT}")
        assert (await run(databases, f"SELECT count(*) FROM t {HINT}")).rows == [(6,)]


async def test_in_transactions() -> None:
    async with shards() as databases:
        session = databases.session(protocol="test")
        with pytest.raises(HaError, match="no part of a transaction"):
            await session.transaction([Statement("SELECT 1"), Statement(f"SELECT 1 {HINT}")])
        await session.execute("BEGIN")
        assert (await session.execute(f"SELECT count(*) FROM t {HINT}")).rows == [(6,)]
        await session.execute("DELETE FROM t")
        with pytest.raises(HaError, match="would not see"):
            await session.execute(f"SELECT count(*) FROM t {HINT}")
        await session.execute("ROLLBACK")
        await session.aclose()


async def test_rows_are_fetched_in_pages_and_it_can_be_left_and_cancelled() -> None:
    async with shards() as databases:
        for name in ("shop_1.db", "shop_2.db"):
            session = databases.session(name, protocol="test")
            await session.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"
                " INSERT INTO t(id, amount) SELECT i, i FROM n"
            )
            await session.aclose()
        session = databases.session(protocol="test")
        for order in ("", " ORDER BY amount"):
            async with session.query(f"SELECT id FROM t{order} {HINT}") as rows:
                assert len(await rows.fetch(10)) == 10
                assert len(await rows.fetch(3000)) == 3000
            count = 0
            async with session.query(f"SELECT id FROM t{order} {HINT}") as rows:
                while page := await rows.fetch(700):
                    count += len(page)
            assert count == 2 * 8001 + 6
        errors: list[HaError] = []

        async def endless() -> None:
            sql = f"SELECT count(*) FROM t AS a, t AS b, t AS c {HINT}"
            with pytest.raises(HaError) as info:
                await session.execute(sql)
            errors.append(info.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(endless)
            await trio.sleep(0.3)
            session.cancel()
        assert errors[0].code is Code.CANCELLED
        assert (await session.execute(f"SELECT count(*) FROM t {HINT}")).rows == [(16008,)]
        await session.aclose()
