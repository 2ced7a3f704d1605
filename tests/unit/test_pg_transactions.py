"""Transactions as PostgreSQL's clients know them, over the engine's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from ha.core.errors import Code
from ha.wire.postgres.config import Auth, Config, Limits
from ha.wire.postgres.errors import SQLSTATES as KNOWN
from tests.support.cluster import OPTIONS, settle
from tests.support.pg import PgServer, fields, in_thread, open_pg

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
TRUST = Config(auth=Auth.TRUST, limits=Limits(liveness_interval=0.1))


async def prepare(server: PgServer) -> None:
    await server.node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER UNIQUE)")


async def count(server: PgServer) -> Any:
    return (await server.node.rows("SELECT count(*) FROM t"))[0][0]


async def test_commit_rollback_and_savepoints() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(c: psycopg.Connection[Any]) -> None:
            def clash() -> None:
                with c.transaction():
                    c.execute("INSERT INTO t VALUES (2, 2)")
                    c.execute("INSERT INTO t VALUES (3, 2)")

            with c.transaction():
                c.execute("INSERT INTO t VALUES (1, 1)")
                with pytest.raises(psycopg.errors.UniqueViolation):
                    clash()
                with c.transaction() as inner:
                    c.execute("INSERT INTO t VALUES (4, 4)")
                    raise psycopg.Rollback(inner)
            with c.transaction() as outer:
                c.execute("DELETE FROM t")
                raise psycopg.Rollback(outer)

        await server.psycopg(work)
        assert await server.node.rows("SELECT id FROM t") == [(1,)]


async def test_a_failed_transaction_takes_nothing_but_its_end() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(c: psycopg.Connection[Any]) -> list[str | None]:
            c.execute("BEGIN")
            c.execute("INSERT INTO t VALUES (1, 1)")
            states: list[str | None] = []
            for sql in ("SELECT nope", "SELECT 1", "INSERT INTO t VALUES (2, 2)", "SHOW all"):
                with pytest.raises(psycopg.Error) as info:
                    c.execute(sql)
                states.append(info.value.sqlstate)
            states.append(c.execute("COMMIT").statusmessage)
            return states

        found = await server.psycopg(work)
        assert found == ["42703", "25P02", "25P02", "25P02", "ROLLBACK"]
        assert await count(server) == 0


async def test_a_savepoint_saves_a_failed_transaction() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(c: psycopg.Connection[Any]) -> None:
            c.execute("BEGIN")
            c.execute("INSERT INTO t VALUES (1, 1)")
            c.execute("SAVEPOINT a")
            with pytest.raises(psycopg.errors.UniqueViolation):
                c.execute("INSERT INTO t VALUES (2, 1)")
            c.execute("ROLLBACK TO SAVEPOINT a")
            c.execute("INSERT INTO t VALUES (3, 3)")
            with pytest.raises(psycopg.Error) as info:
                c.execute("RELEASE b")
            assert info.value.sqlstate == "3B001"
            c.execute("ROLLBACK TO a")
            c.execute("INSERT INTO t VALUES (4, 4)")
            c.execute("COMMIT")

        await server.psycopg(work)
        assert await server.node.rows("SELECT id FROM t") == [(1,), (4,)]


async def test_words_of_postgresql() -> None:
    async with open_pg() as server:
        await prepare(server)
        script = """
        BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE, NOT DEFERRABLE;
        SHOW transaction_isolation; COMMIT WORK;
        START TRANSACTION READ ONLY; SHOW transaction_read_only; END;
        BEGIN; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SHOW TRANSACTION ISOLATION LEVEL;
        ABORT; BEGIN; INSERT INTO t VALUES (1, 1); COMMIT AND CHAIN;
        INSERT INTO t VALUES (2, 2); ROLLBACK AND NO CHAIN;
        """
        out = await server.psql(stdin=script)
        assert "serializable" in out
        assert "read committed" in out
        assert "ERROR" not in out
        assert await count(server) == 1


async def test_a_read_only_transaction_does_not_write() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(c: psycopg.Connection[Any]) -> None:
            c.read_only = True
            c.autocommit = False
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                c.execute("INSERT INTO t VALUES (1, 1)")
            c.rollback()
            c.autocommit = True
            c.execute("SET default_transaction_read_only = on")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                c.execute("CREATE TABLE u(x)")

        await server.psycopg(work)


async def test_a_session_that_vanishes_rolls_back_at_once() -> None:
    async with open_pg(TRUST) as server:
        await prepare(server)
        client = await server.raw()
        await client.until()
        assert await client.query("BEGIN; INSERT INTO t VALUES (1, 1)") == "CCZT"
        await client.aclose()
        with trio.fail_after(5):  # less than --transaction-hold and the writer's patience
            await server.node.run("INSERT INTO t VALUES (1, 2)")
        assert await server.node.rows("SELECT * FROM t") == [(1, 2)]


async def sessions(server: PgServer, number: int) -> None:
    """Wait until so many are open."""
    while server.node.database.sessions["postgres"] != number:
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_session_that_vanishes_stops_its_statement() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
        await client.send(("Q", ENDLESS.encode() + b"\0"))
        with trio.fail_after(10):
            await sessions(server, 1)
            await client.aclose()
            await sessions(server, 0)


async def test_time_outs() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(c: psycopg.Connection[Any]) -> None:
            c.execute("SET statement_timeout = '100ms'")
            with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
                c.execute(ENDLESS)
            assert c.execute("SELECT 1").fetchone() == (1,)

        await server.psycopg(work)


async def test_an_idle_transaction_is_ended() -> None:
    async with open_pg(TRUST) as server:
        await prepare(server)
        client = await server.raw(options="-c idle_in_transaction_session_timeout=100")
        await client.until()
        await client.query("BEGIN; INSERT INTO t VALUES (1, 1)")
        kind, body = await client.receive()
        assert (kind, fields(body)["C"]) == ("E", "25P03")
        with pytest.raises(EOFError):
            await client.receive()
        await server.node.run("INSERT INTO t VALUES (1, 2)")
        other = await server.raw(options="-c idle_session_timeout=100")
        await other.until()
        kind, body = await other.receive()
        assert (kind, fields(body)["C"]) == ("E", "57P05")


async def test_a_cancel_request_interrupts_the_running_statement() -> None:
    async with open_pg() as server:
        connection = await in_thread(server.connect)

        async def cancel() -> None:
            await trio.sleep(0.3)
            await in_thread(connection.cancel_safe)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
                    await in_thread(lambda: connection.execute(ENDLESS))
        # One that comes when nothing runs does nothing, and a wrong key neither.
        await in_thread(connection.cancel_safe)
        assert await in_thread(lambda: connection.execute("SELECT 1").fetchone()) == (1,)
        await in_thread(connection.close)


@pytest.mark.parametrize("how", ["cancel request", "statement_timeout"])
@pytest.mark.parametrize("begin", ["BEGIN", "SELECT 1"])
async def test_waiting_for_the_writer_can_be_cancelled(how: str, begin: str) -> None:
    """Inside of a transaction, and outside of one."""
    async with open_pg() as server:
        await prepare(server)
        holder = await in_thread(server.connect)
        waiter = await in_thread(server.connect)
        await in_thread(lambda: holder.execute("BEGIN"))
        await in_thread(lambda: holder.execute("INSERT INTO t VALUES (1, 1)"))
        await in_thread(lambda: waiter.execute(begin))
        if how == "statement_timeout":
            await in_thread(lambda: waiter.execute("SET statement_timeout = '100ms'"))

        async def cancel() -> None:
            committer = server.node.database.committer
            while not committer.waiting:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await in_thread(waiter.cancel_safe)

        async with trio.open_nursery() as nursery:
            if how == "cancel request":
                nursery.start_soon(cancel)
            with pytest.raises(psycopg.errors.QueryCanceled), trio.fail_after(4):
                await in_thread(lambda: waiter.execute("INSERT INTO t VALUES (2, 2)"))
        await in_thread(lambda: holder.execute("COMMIT"))
        await in_thread(lambda: waiter.execute("ROLLBACK"))
        await in_thread(lambda: waiter.execute("INSERT INTO t VALUES (3, 3)"))
        assert await server.node.rows("SELECT id FROM t") == [(1,), (3,)]
        await in_thread(holder.close)
        await in_thread(waiter.close)


async def test_readers_do_not_wait_for_the_writer() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(writer: psycopg.Connection[Any]) -> Any:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO t VALUES (1, 1)")
            with server.connect() as reader:
                seen = reader.execute("SELECT count(*) FROM t").fetchone()
            writer.execute("COMMIT")
            return seen

        assert await server.psycopg(work) == (0,)


async def test_an_open_transaction_does_not_hold_up_other_nodes_for_long() -> None:
    async with open_pg(nodes=2) as server:
        await prepare(server)
        await settle(server.nodes)
        connection = await in_thread(server.connect)
        await in_thread(lambda: connection.execute("BEGIN"))
        await in_thread(lambda: connection.execute("INSERT INTO t VALUES (1, 1)"))
        hold = server.node.database.options.commit.transaction_hold
        with trio.fail_after(hold + 5):
            await server.nodes[1].run("INSERT INTO t VALUES (2, 2)")
            await settle(server.nodes)
        assert await server.node.rows("SELECT id FROM t") == [(2,)]

        def next_statement() -> str | None:
            with pytest.raises(psycopg.Error) as info:
                connection.execute("SELECT 1")
            assert info.value.diag.message_hint
            assert connection.execute("ROLLBACK").statusmessage == "ROLLBACK"
            return info.value.sqlstate

        assert await in_thread(next_statement) == "40001"
        await in_thread(connection.close)


async def test_a_waiting_writer_is_told_and_does_not_hang() -> None:
    impatient = replace(OPTIONS, commit=replace(OPTIONS.commit, writer_patience=0.1))
    async with open_pg(options=impatient) as server:
        await prepare(server)

        def work(holder: psycopg.Connection[Any]) -> tuple[str | None, str | None]:
            holder.execute("BEGIN")
            holder.execute("INSERT INTO t VALUES (1, 1)")
            with server.connect() as waiter:
                waiter.execute("BEGIN")
                with pytest.raises(psycopg.errors.LockNotAvailable) as info:
                    waiter.execute("INSERT INTO t VALUES (2, 2)")
                waiter.execute("ROLLBACK")
            holder.execute("COMMIT")
            return info.value.diag.message_primary, info.value.diag.message_hint

        message, hint = await server.psycopg(work)
        assert message == "another transaction kept the writer for 0.1 s"
        assert hint == "try again"
        assert await count(server) == 1


async def test_two_that_read_and_then_write_conflict_visibly() -> None:
    async with open_pg() as server:
        await prepare(server)

        def work(one: psycopg.Connection[Any]) -> str | None:
            with server.connect() as two:
                for c in (one, two):
                    c.execute("BEGIN")
                    c.execute("SELECT count(*) FROM t").fetchone()
                one.execute("INSERT INTO t VALUES (1, 1)")
                one.execute("COMMIT")
                with pytest.raises(psycopg.Error) as info:
                    two.execute("INSERT INTO t VALUES (2, 2)")
                assert info.value.diag.message_hint
                return info.value.sqlstate

        assert await server.psycopg(work) == "40001"


SQLSTATES = [
    ("INSERT INTO t VALUES (1, 1), (1, 2)", "23505"),
    ("INSERT INTO c VALUES (99, 1)", "23503"),
    ("INSERT INTO c VALUES (NULL, NULL)", "23502"),
    ("INSERT INTO c VALUES (NULL, -1)", "23514"),
    ("SELECT * FROM nope", "42P01"),
    ("SELECT nope FROM t", "42703"),
    ("SELECT nope()", "42883"),
    ("SELEKT 1", "42601"),
    ("CREATE TABLE t(x)", "42P07"),
    ("SELECT 'x'::int8 FROM t WHERE id = 'abc'::int8 OR 1", None),
    ("ATTACH 'x' AS y", "42501"),
    ("VACUUM", "42501"),
    ("LISTEN x", "0A000"),
    ("NOTIFY x", "0A000"),
    ("CREATE EXTENSION x", "0A000"),
    ("SELECT abs(-9223372036854775808)", "22003"),
]


async def test_sqlstates() -> None:
    async with open_pg() as server:
        await prepare(server)
        await server.node.run(
            "CREATE TABLE c(t_id INTEGER REFERENCES t, n INTEGER NOT NULL CHECK (n > 0))"
        )

        def work(c: psycopg.Connection[Any]) -> dict[str, str | None]:
            c.execute("PRAGMA foreign_keys = ON")
            found: dict[str, str | None] = {}
            for sql, _ in SQLSTATES:
                try:
                    c.execute(sql)
                    found[sql] = None
                except psycopg.Error as error:
                    found[sql] = error.sqlstate
            return found

        assert await server.psycopg(work) == dict(SQLSTATES)


async def test_an_unknown_function_says_what_sqlite_has() -> None:
    async with open_pg() as server:
        out = await server.psql("SELECT to_char(1, '9')", check=False)
        assert "no such function: to_char" in out
        assert "strftime" in out


def test_every_code_has_a_sqlstate() -> None:
    assert set(KNOWN) == set(Code)
    assert all(len(state) == 5 for state in KNOWN.values())
