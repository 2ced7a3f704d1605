"""SET and SHOW, cursors, PREPARE, DISCARD, and the commands of our own, in both protocols."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from ha.wire.postgres.config import Auth, Config
from tests.support.pg import SYNC, bind, describe, execute, fields, open_pg, parse

TRUST = Config(auth=Auth.TRUST)


async def test_parameters_are_set_shown_and_reset() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            def show(name: str) -> Any:
                return (c.execute(f"SHOW {name}").fetchone() or (None,))[0]

            for sql, name, value in (
                ("SET application_name TO 'x'", "application_name", "x"),
                ("SET SESSION application_name = y", "application_name", "y"),
                ("SET TIME ZONE 'Europe/Berlin'", "TIME ZONE", "Europe/Berlin"),
                ("SET NAMES 'UTF8'", "client_encoding", "UTF8"),
                ("SET statement_timeout = '2min'", "statement_timeout", "2min"),
                ("SET search_path TO a, \"B\"", "search_path", "a, B"),
                ("SET DateStyle = 'ISO, DMY'", "DateStyle", "ISO, DMY"),
                ("SET my.own = 5", "my.own", "5"),
                ("SET extra_float_digits = -1", "extra_float_digits", "-1"),
                ("SELECT set_config('application_name', 'z', false)", "application_name", "z"),
                ("RESET application_name", "application_name", "test"),
                ("SET application_name = q; RESET ALL", "application_name", "test"),
                ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                 "default_transaction_read_only", "on"),
                ("SET default_transaction_read_only TO DEFAULT",
                 "default_transaction_read_only", "off"),
            ):  # fmt: skip
                c.execute(sql)
                assert show(name) == value, sql
            assert c.execute("SELECT current_setting('my.own', true)").fetchone() == (None,)
            assert len(c.execute("SHOW ALL").fetchall()) > 40

        await server.psycopg(work, application_name="test")


async def test_a_changed_parameter_is_reported() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> list[str | None]:
            out = []
            for sql in ("SET TimeZone = 'Asia/Tokyo'", "SET application_name = 'me'", "RESET ALL"):
                c.execute(sql)
                out.append(c.info.parameter_status("TimeZone"))
                out.append(c.info.parameter_status("application_name"))
            return out

        assert await server.psycopg(work, application_name="was") == [
            "Asia/Tokyo", "was", "Asia/Tokyo", "me", "UTC", "was",
        ]  # fmt: skip


async def test_settings_of_a_transaction_end_with_it() -> None:
    async with open_pg() as server:
        out = await server.psql(
            stdin="""
            BEGIN; SET LOCAL application_name = 'local'; SHOW application_name; COMMIT;
            SHOW application_name;
            BEGIN; SET application_name = 'undone'; ROLLBACK; SHOW application_name;
            BEGIN; SET application_name = 'kept'; COMMIT; SHOW application_name;
            """
        )
        shown = [line.strip() for line in out.splitlines() if line.startswith(" ")]
        assert [x for x in shown if x != "application_name"] == ["local", "psql", "psql", "kept"]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SET nonsense = 1", "42704"),
        ("SHOW nonsense", "42704"),
        ("SET server_version = '1'", "55P02"),
        ("SET statement_timeout = 'soon'", "22023"),
        ("SET TimeZone = 'Mars/Olympus'", "22023"),
        ("SET client_encoding = 'latin1'", "22023"),
        ("SET standard_conforming_strings = off", "0A000"),
        ("SET DateStyle = 'SQL'", "0A000"),
        ("SET ha.result_types = 'blue'", "22023"),
        ("SET x", "42601"),
        ("DISCARD nothing", "42601"),
        ("EXECUTE nothing", "26000"),
        ("DEALLOCATE nothing", "26000"),
        ("FETCH nothing", "34000"),
        ("CLOSE nothing", "34000"),
        ("DECLARE c CURSOR FOR SELECT 1", "25P01"),
        ("SAVEPOINT a", "25P01"),
        ("PREPARE TRANSACTION 'x'", "0A000"),
        ("GRANT ALL ON t TO x", "0A000"),
        ("LOCK TABLE t", "0A000"),
        ("COMMENT ON TABLE t IS 'x'", "0A000"),
        ("CREATE SCHEMA x", "0A000"),
        ("DO $$ BEGIN END $$", "0A000"),
    ],
)
async def test_what_is_refused_says_why(sql: str, sqlstate: str) -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
        await client.send(("Q", sql.encode() + b"\0"))
        errors = [fields(body) for kind, body in await client.until() if kind == "E"]
        assert [e["C"] for e in errors] == [sqlstate]
        assert len(errors[0]["M"]) > 10
        if sqlstate == "0A000":
            assert errors[0].get("H")


async def test_what_pools_send_at_every_release() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> list[str | None]:
            reset = (
                "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
                "DISCARD ALL", "DEALLOCATE ALL", "RESET SESSION AUTHORIZATION",
                "SET SESSION AUTHORIZATION DEFAULT", "DISCARD TEMP", "DISCARD PLANS",
            )  # fmt: skip
            return [c.execute(sql).statusmessage for sql in reset]

        assert await server.psycopg(work) == [
            "SELECT 1", "DISCARD ALL", "DEALLOCATE ALL", "RESET", "SET", "DISCARD TEMP",
            "DISCARD PLANS",
        ]  # fmt: skip


async def test_discard_all_forgets_what_the_session_had() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            c.execute("CREATE TEMP TABLE mine(x)")
            c.execute("PREPARE p AS SELECT 1")
            c.execute("SET application_name = 'x'")
            c.execute("DISCARD ALL")
            for sql in ("SELECT * FROM mine", "EXECUTE p"):
                with pytest.raises(psycopg.Error):
                    c.execute(sql)
            assert c.execute("SHOW application_name").fetchone() == ("",)

        await server.psycopg(work)


async def test_prepare_and_execute() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, d DATE)")
            c.execute("PREPARE put (int, date) AS INSERT INTO t VALUES ($1, $2) RETURNING id")
            assert c.execute("EXECUTE put(1 + 1, '2024-01-02')").fetchall() == [(2,)]
            c.execute("PREPARE get AS SELECT count(*) FROM t WHERE d = $1")
            assert c.execute("EXECUTE get('2024-01-02')").fetchone() == (1,)
            with pytest.raises(psycopg.errors.SyntaxError, match="wrong number of parameters"):
                c.execute("EXECUTE get")
            with pytest.raises(psycopg.errors.InvalidDatetimeFormat):
                c.execute("EXECUTE get('soon')")
            with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
                c.execute("PREPARE get AS SELECT 1")
            c.execute("DEALLOCATE PREPARE get")
            with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                c.execute("EXECUTE get(1)")

        await server.psycopg(work)


def numbers(rows: list[Any]) -> list[int]:
    return [row[0] for row in rows]


async def test_cursors() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            def fetch(sql: str) -> list[int]:
                return numbers(c.execute(sql).fetchall())

            series = "SELECT value FROM generate_series(1, 9)"
            c.execute("BEGIN")
            c.execute(f"DECLARE plain CURSOR FOR {series}")
            assert fetch("FETCH plain") == [1]
            assert fetch("FETCH 2 FROM plain") == [2, 3]
            assert c.execute("MOVE FORWARD 2 IN plain").statusmessage == "MOVE 2"
            assert fetch("FETCH FORWARD ALL FROM plain") == [6, 7, 8, 9]
            assert fetch("FETCH NEXT FROM plain") == []
            c.execute("SAVEPOINT s")
            with pytest.raises(psycopg.Error, match="only scan forward"):
                c.execute("FETCH PRIOR FROM plain")
            c.execute("ROLLBACK TO s")
            c.execute(f"DECLARE back SCROLL CURSOR FOR {series}")
            assert fetch("FETCH ABSOLUTE 5 FROM back") == [5]
            assert fetch("FETCH BACKWARD 2 FROM back") == [4, 3]
            assert fetch("FETCH RELATIVE 3 FROM back") == [6]
            assert fetch("FETCH LAST FROM back") == [9]
            assert fetch("FETCH PRIOR FROM back") == [8]
            assert fetch("FETCH FIRST FROM back") == [1]
            assert fetch("FETCH PRIOR FROM back") == []
            assert fetch("FETCH 2 FROM back") == [1, 2]
            assert fetch("FETCH BACKWARD ALL FROM back") == [1]
            assert fetch("FETCH ALL FROM back") == list(range(1, 10))
            assert fetch("FETCH PRIOR FROM back") == [9]
            assert fetch("FETCH ABSOLUTE -2 FROM back") == [8]
            assert fetch("FETCH 0 FROM back") == [8]
            c.execute(f"DECLARE held CURSOR WITH HOLD FOR {series}")
            assert fetch("FETCH 3 FROM held") == [1, 2, 3]
            c.execute("CLOSE back")
            c.execute("COMMIT")
            with pytest.raises(psycopg.errors.InvalidCursorName):
                c.execute("FETCH plain")
            assert fetch("FETCH 2 FROM held") == [4, 5]
            c.execute("CLOSE ALL")

        await server.psycopg(work)


async def test_cursors_of_drivers() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            with c.transaction(), c.cursor("mine") as cursor:
                cursor.itersize = 100
                cursor.execute("SELECT value FROM generate_series(1, %s)", (1000,))
                assert numbers(list(cursor)) == list(range(1, 1001))
            with c.transaction(), c.cursor("mine", scrollable=True) as cursor:
                cursor.execute("SELECT value FROM generate_series(1, 10)")
                assert numbers(cursor.fetchmany(3)) == [1, 2, 3]
                cursor.scroll(-2)
                assert numbers(cursor.fetchmany(2)) == [2, 3]

        await server.psycopg(work)


async def test_commands_of_our_own_in_both_protocols() -> None:
    async with open_pg() as server:

        def work(c: psycopg.Connection[Any]) -> None:
            assert c.execute("SHOW DATABASES").fetchall() == [("ha.db",)]
            c.execute("CREATE TABLE t(x)")
            c.execute("INSERT INTO t VALUES (1)")
            c.execute("SET DATABASE TO ha")
            c.execute("UNSET DATABASE")
            history = c.execute("HISTORY 1")
            assert [d.name for d in history.description or ()] == ["seq", "sql", "timestamp"]
            assert len(history.fetchall()) >= 2
            sequence = (c.execute("SHOW ha.txseq").fetchone() or ("0",))[0]
            assert int(sequence) > 0
            c.execute(f"SET ha.txseq = {sequence}")
            c.execute("UNDO")
            assert c.execute("SELECT count(*) FROM t").fetchone() == (0,)
            with pytest.raises(psycopg.Error):
                c.execute("BEGIN; UNDO")

        await server.psycopg(work)
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
        found = await client.exchange(parse("SHOW DATABASES"), bind(), describe(), execute(), SYNC)
        assert found == "12TDCZI"
        assert await client.exchange(parse("SHOW ALL"), describe("S"), SYNC) == "1tTZI"
        assert await client.exchange(parse("SET x.y = 1"), bind(), describe(), execute(), SYNC) == (
            "12nCZI"
        )
