"""Every declared type with every storage class, through a driver that believes what it is told."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import asyncpg
import psycopg
import pytest

from tests.support.pg import PgServer, in_asyncio, open_pg

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
UTC = dt.UTC

DECLARED = {
    "INTEGER": "int8", "BIGINT": "int8", "SMALLINT": "int8", "REAL": "float8",
    "DOUBLE PRECISION": "float8", "NUMERIC(10,2)": "numeric", "DECIMAL": "numeric",
    "TEXT": "text", "VARCHAR(20)": "text", "CHAR(3)": "text", "BLOB": "bytea", "BYTEA": "bytea",
    "BOOLEAN": "bool", "DATE": "date", "TIME": "time", "DATETIME": "timestamp",
    "TIMESTAMP": "timestamp", "TIMESTAMPTZ": "timestamptz",
    "TIMESTAMP WITH TIME ZONE": "timestamptz", "JSON": "json", "JSONB": "jsonb", "UUID": "uuid",
    "": "text",
}  # fmt: skip

STORED: dict[str, str] = {
    "null": "NULL",
    "integer": "7",
    "one": "1",
    "real": "1.5",
    "text": "'hello'",
    "date": "'2024-01-02'",
    "stamp": "'2024-01-02 03:04:05.5'",
    "time": "'03:04:05'",
    "json": "'{\"a\": 1}'",
    "uuid": f"'{UUID}'",
    "blob": "x'00ff'",
}

STAMP = dt.datetime(2024, 1, 2, 3, 4, 5, 500000)
FITS: dict[str, dict[str, Any]] = {
    "int8": {"integer": 7, "one": 1},
    "float8": {"integer": 7.0, "one": 1.0, "real": 1.5},
    "numeric": {"integer": Decimal(7), "one": Decimal(1), "real": Decimal("1.5")},
    "text": {
        "integer": "7", "one": "1", "real": "1.5", "text": "hello", "date": "2024-01-02",
        "stamp": "2024-01-02 03:04:05.5", "time": "03:04:05", "json": '{"a": 1}', "uuid": UUID,
    },
    "bytea": {
        "text": b"hello", "date": b"2024-01-02", "stamp": b"2024-01-02 03:04:05.5",
        "time": b"03:04:05", "json": b'{"a": 1}', "uuid": UUID.encode(), "blob": b"\0\xff",
    },
    "bool": {"one": True},
    "date": {"date": dt.date(2024, 1, 2)},
    "time": {"time": dt.time(3, 4, 5)},
    "timestamp": {"date": dt.datetime(2024, 1, 2), "stamp": STAMP},
    "timestamptz": {
        "date": dt.datetime(2024, 1, 2, tzinfo=UTC), "stamp": STAMP.replace(tzinfo=UTC),
    },
    "json": {"integer": "7", "one": "1", "real": "1.5", "json": '{"a": 1}'},
    "jsonb": {"integer": "7", "one": "1", "real": "1.5", "json": '{"a": 1}'},
    "uuid": {"uuid": uuid.UUID(UUID)},
}  # fmt: skip


async def test_every_declared_type_holding_every_storage_class() -> None:
    async with open_pg() as server:

        async def check() -> list[str]:
            c = await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="ha", password="ha", database="ha"
            )
            wrong: list[str] = []
            for number, (declared, kind) in enumerate(DECLARED.items()):
                await c.execute(f"CREATE TABLE t{number}(k TEXT PRIMARY KEY, v {declared})")
                for name, literal in STORED.items():
                    # An expression has no affinity: the value is stored as it is written, unless
                    # the column's affinity changes it.
                    await c.execute(f"INSERT INTO t{number} VALUES ('{name}', {literal})")
                select = await c.prepare(f"SELECT v FROM t{number} WHERE k = $1")
                (attribute,) = select.get_attributes()
                if attribute.type.name != kind:
                    wrong.append(f"{declared} is reported as {attribute.type.name}")
                wrong += await _values(select, declared, kind)
            await c.close()
            return wrong

        assert await in_asyncio(check) == []


async def _values(select: Any, declared: str, kind: str) -> list[str]:
    wrong: list[str] = []
    for name in STORED:
        expected = None if name == "null" else FITS[kind].get(name, "22P02")
        try:
            found = await select.fetchval(name)
        except asyncpg.InvalidTextRepresentationError as error:
            found = "22P02"
            if '"v"' not in str(error) or "CAST" not in (error.hint or ""):
                wrong.append(f"{declared}: {error} {error.hint}")
        if found != expected or not isinstance(found, type(expected)):
            wrong.append(f"{declared} holding {name}: {found!r}, expected {expected!r}")
    return wrong


async def test_results_as_text_hold_anything() -> None:
    async with open_pg() as server:

        def check(c: psycopg.Connection[Any]) -> list[Any]:
            c.execute("CREATE TABLE t(a INTEGER, b BOOLEAN)")
            c.execute("INSERT INTO t VALUES ('x', 'maybe')")
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                c.execute("SELECT * FROM t").fetchall()
            c.execute("SET ha.result_types = text")
            return c.execute("SELECT * FROM t").fetchall()

        assert await server.psycopg(check) == [("x", "maybe")]


VALUES: list[tuple[str, Any]] = [
    ("INTEGER", 2**63 - 1),
    ("REAL", 0.1),
    ("NUMERIC", Decimal("12345.67")),
    ("NUMERIC", Decimal(10**15)),
    ("TEXT", "hé\n'\\"),
    ("BLOB", b"\0\xff'"),
    ("BOOLEAN", True),
    ("BOOLEAN", False),
    ("DATE", dt.date(2024, 2, 29)),
    ("TIME", dt.time(1, 2, 3, 456000)),
    ("TIMESTAMP", dt.datetime(2024, 1, 2, 3, 4, 5, 6)),
    ("TIMESTAMPTZ", dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=5)))),
    ("UUID", uuid.UUID(UUID)),
    ("TEXT", None),
]


@pytest.mark.parametrize("binary", [False, True])
async def test_values_through_psycopg(binary: bool) -> None:
    async with open_pg() as server:

        def check(c: psycopg.Connection[Any]) -> None:
            cursor = c.cursor(binary=binary)
            mark = "%b" if binary else "%t"
            for number, (declared, value) in enumerate(VALUES):
                c.execute(f"CREATE TABLE t{number}(v {declared})")
                cursor.execute(f"INSERT INTO t{number} VALUES ({mark})", (value,))
                found = cursor.execute(f"SELECT v FROM t{number}").fetchone()
                assert found == (value,), declared
                same = cursor.execute(f"SELECT 1 FROM t{number} WHERE v = {mark}", (value,))
                assert same.fetchone() == (None if value is None else (1,)), declared

        await server.psycopg(check)


async def test_values_through_asyncpg() -> None:
    async with open_pg() as server:

        async def check() -> None:
            c = await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="ha", password="ha", database="ha"
            )
            for number, (declared, value) in enumerate(VALUES):
                await c.execute(f"CREATE TABLE t{number}(v {declared})")
                await c.execute(f"INSERT INTO t{number} VALUES ($1)", value)
                assert await c.fetchval(f"SELECT v FROM t{number}") == value, declared
                if value is not None:
                    assert await c.fetchval(f"SELECT count(*) FROM t{number} WHERE v = $1", value)
            await c.execute("CREATE TABLE j(v JSON, w INTEGER)")
            await c.execute("INSERT INTO j VALUES ($1, $2)", '{"a": [1]}', 5)
            assert await c.fetchval("SELECT v FROM j WHERE w = ANY($1)", [4, 5]) == '{"a": [1]}'
            assert await c.fetchval("SELECT count(*) FROM j HAVING count(*) > $1", 0) == 1
            assert await c.fetch("SELECT w FROM j LIMIT $1 OFFSET $2", 1, 0)
            with pytest.raises(asyncpg.NumericValueOutOfRangeError):
                await c.execute("INSERT INTO t2 VALUES ($1)", Decimal("0.1234567890123456789"))
            with pytest.raises(asyncpg.NumericValueOutOfRangeError):
                await c.execute("INSERT INTO t1 VALUES ($1)", float("nan"))
            await c.close()

        await in_asyncio(check)


async def test_text_and_integer_parameters_find_the_same_rows() -> None:
    """SQLite compares '1' and 1 differently where no affinity helps, and says nothing."""
    async with open_pg() as server:

        def check(c: psycopg.Connection[Any]) -> None:
            c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)")
            c.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
            for value in (1, "1", Decimal(1)):
                assert c.execute("SELECT id FROM t WHERE id = %s", (value,)).fetchall() == [(1,)]
            assert c.execute("SELECT 1 WHERE 1 + 1 = %s", ("2",)).fetchall() == [(1,)]
            assert c.execute(
                "SELECT count(*) FROM t HAVING count(*) > %s", ("1",)
            ).fetchall() == [(2,)]  # fmt: skip

        await server.psycopg(check)


async def zone_shown(server: PgServer, zone: str) -> Any:
    def check(c: psycopg.Connection[Any]) -> Any:
        c.execute("CREATE TABLE IF NOT EXISTS z(v TIMESTAMPTZ)")
        c.execute(f"SET TimeZone = '{zone}'")
        c.execute("DELETE FROM z")
        c.execute("INSERT INTO z VALUES ('2024-07-01 12:00:00'::timestamptz)")
        c.execute("INSERT INTO z VALUES (%s)", ("2024-07-01 12:00:00",))
        return [row[0] for row in c.execute("SELECT v::text FROM z").fetchall()]

    return await server.psycopg(check)


async def test_a_parameter_without_offset_is_in_the_time_zone_of_the_session() -> None:
    async with open_pg() as server:
        assert (await zone_shown(server, "Europe/Berlin"))[1] == "2024-07-01 10:00:00"
        assert (await zone_shown(server, "UTC"))[1] == "2024-07-01 12:00:00"
        text = await server.psql("SET timezone = 'Asia/Tokyo'", "SELECT v FROM z LIMIT 1")
        assert "2024-07-01 21:00:00+09" in text
