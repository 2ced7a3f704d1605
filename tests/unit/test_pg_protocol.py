"""Simple and extended queries, message by message."""

from __future__ import annotations

import struct

import pytest
import trio

from ha.wire.postgres.config import Auth, Config, Limits
from tests.support.pg import (
    FLUSH,
    SYNC,
    PgServer,
    RawClient,
    bind,
    close,
    describe,
    execute,
    fields,
    framed,
    open_pg,
    parse,
)

CONFIG = Config(auth=Auth.TRUST)


async def client_of(server: PgServer) -> RawClient:
    client = await server.raw()
    await client.until()
    return client


async def error_of(client: RawClient, *messages: bytes) -> str:
    """The SQLSTATE of the one error in the answer."""
    await client.send(*messages)
    found = [fields(body)["C"] for kind, body in await client.until() if kind == "E"]
    assert len(found) == 1
    return found[0]


async def test_simple_queries() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        assert await client.query("") == "IZI"
        assert await client.query(" ; -- nothing\n;") == "IZI"
        assert await client.query("/* only */") == "IZI"
        assert await client.query("SELECT 1") == "TDCZI"
        assert await client.query("SELECT 1; SELECT 2") == "TDCTDCZI"
        assert await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)") == "CZI"
        assert await client.query("SELECT * FROM t") == "TCZI"
        assert await client.query("BEGIN") == "CZT"
        assert await client.query("SELEKT") == "EZE"
        assert await client.query("SELECT 1") == "EZE"
        assert await client.query("ROLLBACK") == "CZI"
        assert await client.query("COMMIT") == "NCZI"  # with a warning


async def tags(client: RawClient, sql: str) -> list[str]:
    await client.send(("Q", sql.encode() + b"\0"))
    return [body[:-1].decode() for kind, body in await client.until() if kind == "C"]


async def test_command_tags() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        sql = """
        CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE UNIQUE INDEX i ON t(x);
        CREATE VIEW v AS SELECT * FROM t; ALTER TABLE t ADD COLUMN y;
        INSERT INTO t(x) VALUES (1), (2); REPLACE INTO t VALUES (1, 1, 1);
        UPDATE t SET y = 2; SELECT * FROM t; DELETE FROM t WHERE id = 1; VALUES (1), (2);
        WITH a AS (SELECT 1) INSERT INTO t(x) SELECT * FROM a; WITH a AS (SELECT 1) SELECT * FROM a;
        DROP VIEW v; DROP INDEX i; DROP TABLE t; SET application_name = 'x'; SHOW search_path
        """
        assert await tags(client, sql) == [
            "CREATE TABLE", "CREATE INDEX", "CREATE VIEW", "ALTER TABLE", "INSERT 0 2",
            "INSERT 0 1", "UPDATE 2", "SELECT 2", "DELETE 1", "SELECT 2", "INSERT 0 1", "SELECT 1",
            "DROP VIEW", "DROP INDEX", "DROP TABLE", "SET", "SHOW",
        ]  # fmt: skip
        assert await tags(client, "BEGIN; SAVEPOINT a; RELEASE a; COMMIT") == [
            "BEGIN", "SAVEPOINT", "RELEASE", "COMMIT",
        ]  # fmt: skip
        assert await tags(client, "START TRANSACTION; SELEKT") == ["START TRANSACTION"]
        assert await tags(client, "COMMIT") == ["ROLLBACK"]


async def test_a_schema_change_answers_no_rows() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        assert await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY, x INT)") == "CZI"
        change = "ALTER TABLE t ADD CONSTRAINT positive CHECK (x > 0)"  # SQLite reads t for it
        assert await tags(client, change) == ["ALTER TABLE"]
        assert await client.query("ALTER TABLE t DROP CONSTRAINT positive") == "CZI"


async def test_several_statements_are_one_transaction() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        failing = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)"
        assert await client.query(failing) == "CEZI"
        assert await tags(client, "SELECT * FROM t") == ["SELECT 0"]
        # A COMMIT inside cuts it: what stands before is kept, what comes after is a new one.
        cut = "INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); SELEKT"
        assert await client.query(cut) == "CCCEZI"
        assert await tags(client, "SELECT * FROM t") == ["SELECT 1"]
        # A BEGIN inside takes over what came before it.
        begun = "INSERT INTO t VALUES (5); BEGIN; INSERT INTO t VALUES (6)"
        assert await client.query(begun) == "CCCZT"
        await client.query("ROLLBACK")
        assert await tags(client, "SELECT * FROM t") == ["SELECT 1"]


async def test_an_error_says_where() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.send(("Q", "SELECT 'é'; SELECT nope FROM sqlite_schema".encode() + b"\0"))
        error = next(fields(b) for k, b in await client.until() if k == "E")
        assert (error["C"], error["P"]) == ("42703", "20")


async def test_extended_query() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)")
        insert = parse("INSERT INTO t VALUES ($1, $2)")
        assert (
            await client.exchange(insert, bind(b"1", b"a"), describe(), execute(), SYNC) == "12nCZI"
        )
        assert (
            await client.exchange(parse("SELECT * FROM t", "s"), describe("S", "s"), SYNC)
            == "1tTZI"
        )
        assert await client.exchange(bind(statement="s"), execute(), SYNC) == "2DCZI"
        assert (
            await client.exchange(
                bind(statement="s", binary_results=True), describe(), execute(), SYNC
            )
            == "2TDCZI"
        )
        assert await client.exchange(close("S", "s"), SYNC) == "3ZI"
        assert await client.exchange(bind(statement="s"), execute(), SYNC) == "EZI"
        assert await client.exchange(close("S", "unknown"), close("P", "x"), SYNC) == "33ZI"
        assert await client.exchange(parse(""), bind(), describe(), execute(), SYNC) == "12nIZI"


async def test_what_is_described_before_it_runs() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY, ok BOOLEAN)")
        await client.send(
            parse("SELECT id, ok, count(*) FROM t WHERE id = $1"), describe("S"), SYNC
        )
        messages = dict(await client.until())
        assert struct.unpack("!hi", messages["t"]) == (1, 20)
        (count,) = struct.unpack_from("!h", messages["T"])
        assert count == 3
        assert messages["T"].count(struct.pack("!ih", 20, 8)) == 2
        assert messages["T"].count(struct.pack("!ih", 16, 1)) == 1


async def test_portals_are_suspended_at_their_row_limit() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("BEGIN")
        series = parse("SELECT value FROM generate_series(1, 5)")
        assert (
            await client.exchange(series, bind(portal="p"), execute("p", 2), execute("p", 2), SYNC)
            == "12DDsDDsZT"
        )
        # It goes on after the Sync, and ends.
        assert await client.exchange(execute("p", 2), SYNC) == "DCZT"
        assert await client.exchange(execute("p", 2), SYNC) == "EZE"
        await client.query("ROLLBACK")
        assert (
            await client.exchange(series, bind(portal="q"), execute("q", 5), SYNC) == "12DDDDDsZI"
        )
        # Outside of a transaction a portal ends with its Sync.
        assert await client.exchange(execute("q"), SYNC) == "EZI"


async def test_a_limit_holds_for_returning_too() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        assert await client.exchange(
            parse("INSERT INTO t VALUES (1), (2), (3) RETURNING id"),
            bind(), describe(), execute(max_rows=2), execute(), SYNC,
        ) == "12TDDsDCZI"  # fmt: skip
        assert await tags(client, "SELECT * FROM t") == ["SELECT 3"]


async def test_after_an_error_everything_is_skipped_up_to_sync() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        assert (
            await client.exchange(
                parse("SELEKT"), bind(), describe(), execute(), parse("SELECT 1"), SYNC
            )
            == "EZI"
        )
        assert await client.exchange(parse("SELECT 1"), bind(), execute(), SYNC) == "12DCZI"


async def test_a_pipeline_is_one_transaction() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        insert = parse("INSERT INTO t VALUES ($1)", "i")
        await client.exchange(insert, SYNC)

        def put(n: int) -> bytes:
            return bind(str(n).encode(), statement="i") + execute()

        assert await client.exchange(put(1), put(2), put(1), put(3), SYNC) == "2C2C2EZI"
        assert await tags(client, "SELECT * FROM t") == ["SELECT 0"]
        assert await client.exchange(put(1), put(2), SYNC, put(3), put(3), SYNC) == "2C2CZI"
        assert (await client.until())[-1] == ("Z", b"I")
        assert await tags(client, "SELECT * FROM t") == ["SELECT 2"]


async def test_a_pipeline_that_comes_in_pieces() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        await client.exchange(parse("INSERT INTO t VALUES ($1)", "i"), SYNC)
        before = server.node.database.committer.applied
        data = b"".join(bind(b"%d" % n, statement="i") + execute() for n in range(2000)) + SYNC
        for i in range(0, len(data), 1000):
            await client.stream.send_all(data[i : i + 1000])
        found = await client.until()
        assert "".join(k for k, _ in found) == "2C" * 2000 + "Z"
        assert server.node.database.committer.applied == before + 1
        assert await tags(client, "SELECT * FROM t") == ["SELECT 2000"]


async def test_a_long_pipeline_fails_where_it_fails() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        await client.exchange(parse("INSERT INTO t VALUES ($1)", "i"), SYNC)
        puts = [bind(b"%d" % n, statement="i") + execute() for n in [*range(50), 7, 99]]
        found = await client.exchange(*puts, SYNC)
        assert found == "2C" * 50 + "2EZI"
        wrong = [puts[0], bind(b"x", statement="i"), execute(), puts[1], SYNC]
        assert await client.exchange(*wrong) == "2CEZI"
        mixed = [puts[0], parse("SELECT 1"), bind(), execute(), puts[1], SYNC]
        assert await client.exchange(*mixed) == "2C12DC2CZI"
        assert await tags(client, "SELECT * FROM t") == ["SELECT 2"]


async def test_a_pipeline_that_is_flushed_can_still_fail_as_one() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        await client.send(parse("INSERT INTO t VALUES (1)"), bind(), execute(), FLUSH)
        assert [k for k, _ in await client.until("C")] == ["1", "2", "C"]
        assert await client.exchange(parse("SELEKT"), SYNC) == "EZI"
        assert await tags(client, "SELECT * FROM t") == ["SELECT 0"]


async def test_a_vanished_pipeline_leaves_nothing() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        await client.send(parse("INSERT INTO t VALUES (1)"), bind(), execute(), FLUSH)
        await client.until("C")
        await client.aclose()
        other = await client_of(server)
        assert await tags(other, "INSERT INTO t VALUES (1)") == ["INSERT 0 1"]


async def test_what_is_wrong_with_names_and_numbers() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.exchange(parse("SELECT $1::int8", "s"), SYNC)
        assert await error_of(client, parse("SELECT 1", "s"), SYNC) == "42P05"
        assert await error_of(client, bind(statement="s"), SYNC) == "08P01"
        assert await error_of(client, bind(b"x", statement="s"), SYNC) == "22P02"
        assert await error_of(client, bind(b"9" * 30, statement="s"), SYNC) == "22003"
        assert await error_of(client, execute("none"), SYNC) == "34000"
        assert await error_of(client, describe("S", "none"), SYNC) == "26000"
        assert await error_of(client, parse("SELECT 1; SELECT 2"), SYNC) == "42601"
        assert await error_of(client, parse("SELECT $1", oids=(99999,)), SYNC) == "42704"
        assert await error_of(client, framed("F", b"\0\0\0\1"), SYNC) == "0A000"
        assert (await client.until())[-1] == ("Z", b"I")


async def test_a_changed_table_is_noticed() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.query("CREATE TABLE t(id INTEGER)")
        await client.exchange(parse("SELECT * FROM t", "s"), SYNC)
        await client.query("ALTER TABLE t ADD COLUMN x TEXT")
        assert await error_of(client, bind(statement="s"), execute(), SYNC) == "0A000"
        assert await client.exchange(parse("SELECT * FROM t"), describe("S"), SYNC) == "1tTZI"


async def test_limits_of_what_a_session_keeps() -> None:
    limits = Limits(prepared_statements=2, portals=2, message=2000)
    async with open_pg(Config(auth=Auth.TRUST, limits=limits)) as server:
        client = await client_of(server)
        for name in "ab":
            await client.exchange(parse("SELECT 1", name), SYNC)
        assert await error_of(client, parse("SELECT 1", "c"), SYNC) == "53400"
        await client.query("BEGIN")
        for name in "pq":
            await client.exchange(bind(portal=name, statement="a"), SYNC)
        assert await error_of(client, bind(portal="r", statement="a"), SYNC) == "53400"
        await client.send(("Q", b"x" * 3000))
        kind, body = await client.receive()
        assert (kind, fields(body)["C"], fields(body)["S"]) == ("E", "54000", "FATAL")
        with pytest.raises(EOFError):
            await client.receive()


@pytest.mark.parametrize(
    "data",
    [b"z\0\0\0\4", b"Q\0\0\0\1", framed("B", b"abc"), framed("p", b"secret\0"), b"\0" * 40],
)
async def test_broken_messages_end_the_one_session(data: bytes) -> None:
    async with open_pg(CONFIG) as server:
        client, other = await client_of(server), await client_of(server)
        await client.send(data)
        kind, body = await client.receive()
        assert (kind, fields(body)["S"]) == ("E", "FATAL")
        with pytest.raises(EOFError):
            await client.receive()
        assert await other.query("SELECT 1") == "TDCZI"


async def test_terminate_ends_it() -> None:
    async with open_pg(CONFIG) as server:
        client = await client_of(server)
        await client.send(("X", b""))
        with trio.fail_after(5), pytest.raises(EOFError):
            await client.receive()
