"""Forwarding, below every protocol: each rule of docs/spec.md, "Leader mode", by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ha.cli.operate.commands import _show_cluster
from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.engine.api import Kind, Routing, Statement, Status
from ha.engine.leadership import Member, Role
from ha.engine.operations import NodeOperations
from ha.forward import channel
from ha.forward.target import client_context, parse_target
from ha.wire.grpc.leader_service import RequestIds
from ha.wire.http.server import Tls
from tests.support.certificate import make_certificate
from tests.support.cluster import open_cluster, settle
from tests.support.leaders import Held, Leaders, cut, die_before, lose_the_answer, open_leaders
from tests.support.pg import sqlstate_of

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT UNIQUE)"


def code_of(caught: pytest.ExceptionInfo[HaError]) -> Code:
    return caught.value.code


async def rows_of(cluster: Leaders, index: int, sql: str) -> list[tuple[Any, ...]]:
    await cluster.settle()
    return await cluster[index].node.rows(sql)


async def test_a_follower_sends_writes_to_the_leader_and_reads_here() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        result = await session.execute(TABLE)
        assert result.kind is Kind.DDL
        result = await session.execute("INSERT INTO t VALUES (7, ?)", ["a"])
        assert (result.rows_affected, result.last_insert_id) == (1, 7)
        assert await session.execute("SELECT * FROM t") is not None
        assert {node async for node in _history(cluster)} == {"n1"}


async def _history(cluster: Leaders) -> Any:
    session = cluster[0].session()
    async with session.history(Since(1)) as items:
        async for item in items:
            yield item.node


async def test_a_read_after_a_forwarded_write_sees_it() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        for n in range(50):
            await session.execute("INSERT INTO t VALUES (?, ?)", [n, str(n)])
            assert (await session.execute("SELECT max(id) FROM t")).rows == [(n,)]
            async with session.query("SELECT count(*) FROM t") as rows:
                assert await rows.fetch(2) == [(n + 1,)]
        assert session.txseq == (await cluster[1].node.database.log.state()).subject_last


async def test_values_types_columns_and_counts_come_back_exactly() -> None:
    async with open_leaders() as cluster:
        here, there = cluster[1].session(), cluster[0].session()
        await here.execute("CREATE TABLE v (id INTEGER PRIMARY KEY, a, b BLOB, c REAL, d TEXT)")
        sql = (
            "INSERT INTO v(a, b, c, d) VALUES (?, ?, ?, ?)"
            " RETURNING *, a AS e, 9e999, typeof(b), 2 * 3"
        )
        params = [2**63 - 1, b"\0\xff", float("-inf"), "text with \0 and ü"]
        forwarded = await here.execute(sql, params)
        local = await there.execute(sql, params)
        local.rows[0] = (1, *local.rows[0][1:])
        local.last_insert_id = 1
        assert forwarded == local
        assert [c.table for c in forwarded.columns][:2] == ["v", "v"]
        named = await here.execute("UPDATE v SET a = :x WHERE id = :id", {"x": None, "id": 1})
        assert named.rows_affected == 1


async def test_errors_come_back_with_code_hint_offset_and_sqlite_code() -> None:
    async with open_leaders() as cluster:
        here, there = cluster[1].session(), cluster[0].session()
        await here.execute(TABLE)
        await here.execute("INSERT INTO t VALUES (1, 'a')")
        for sql in (
            "INSERT INTO t VALUES (2, 'a')",
            "INSERT INTO t VALUES (1, 'b')",
            "INSERT INTO missing VALUES (1)",
            "INSERT INTO t(nothing) VALUES (1)",
            "INSER INTO t VALUES (1)",
            "UPDATE t SET x = abs(-9223372036854775808)",
            "CREATE TABLE t (x)",
            "VACUUM",
            "UNDOE 99999",
        ):
            found = []
            for session in (here, there):
                with pytest.raises(HaError) as caught:
                    await session.execute(sql)
                error = caught.value
                found.append(
                    (error.code, error.message, error.hint, error.offset, error.sqlite_code)
                )
            assert found[0] == found[1], sql


async def test_last_insert_rowid_and_changes_follow_the_session() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("INSERT INTO t VALUES (41, 'a'), (42, 'b')")
        state = "SELECT last_insert_rowid(), changes()"
        assert (await session.execute(state)).rows == [(42, 2)]
        await session.execute("INSERT INTO t VALUES (50, last_insert_rowid() || ' ' || changes())")
        assert (await session.execute("SELECT x FROM t WHERE id = 50")).rows == [("42 2",)]
        cluster.lead(1)
        await session.execute("INSERT INTO t VALUES (51, last_insert_rowid())")
        assert (await session.execute("SELECT x FROM t WHERE id = 51")).rows == [("50",)]


async def test_a_list_is_one_transaction_on_the_leader() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        results = await session.transaction(
            [
                Statement("INSERT INTO t VALUES (1, 'a')"),
                Statement("SELECT count(*) FROM t"),
                Statement("UPDATE t SET x = 'b' RETURNING x"),
            ]
        )
        assert [r.rows for r in results] == [[], [(1,)], [("b",)]]
        with pytest.raises(HaError) as caught:
            await session.transaction(
                [Statement("DELETE FROM t"), Statement("INSERT INTO t VALUES (1, NULL), (1, NULL)")]
            )
        assert code_of(caught) is Code.UNIQUE_VIOLATION
        assert (await session.execute("SELECT x FROM t")).rows == [("b",)]


async def test_a_transaction_runs_on_the_leader_from_its_begin_on() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")
        assert session.status is Status.TRANSACTION
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        await session.execute("CREATE TABLE u (y)")
        prepared = await session.prepare("INSERT INTO u VALUES (:a)")
        assert (prepared.kind, prepared.parameters) == (Kind.WRITE, ("a",))
        await session.execute("SAVEPOINT s")
        await session.execute("INSERT INTO u VALUES (1)")
        await session.execute("ROLLBACK TO s")
        async with session.query("SELECT x, count(*) OVER () FROM t") as rows:
            assert await rows.fetch(10) == [("a", 1)]
            assert [c.name for c in rows.columns] == ["x", "count(*) OVER ()"]
        assert await cluster[1].node.rows("SELECT * FROM t") == []
        await session.execute("COMMIT")
        assert session.status is Status.IDLE
        assert (await session.execute("SELECT * FROM t, (SELECT count(*) FROM u)")).rows == [
            (1, "a", 0)
        ]
        await session.execute("SAVEPOINT outermost")
        await session.execute("DELETE FROM t")
        await session.execute("RELEASE outermost")
        assert session.status is Status.IDLE
        assert (await session.execute("SELECT * FROM t")).rows == []


async def test_a_long_result_in_a_transaction_is_fetched_piece_by_piece() -> None:
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " SELECT i, 'text ' || i FROM n"
    )
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")
        async with session.query(numbers) as rows:
            first = await rows.fetch(10)
            await session.execute("INSERT INTO t VALUES (1, 'meanwhile')")
            rest = []
            while page := await rows.fetch(700):
                rest += page
        assert [*first, *rest] == [(i, f"text {i}") for i in range(1, 5001)]
        async with session.query(numbers) as rows:
            await rows.fetch(1)  # and no more
        await session.execute("COMMIT")
        assert (await session.execute("SELECT x FROM t")).rows == [("meanwhile",)]


async def test_a_rollback_leaves_nothing_and_closing_rolls_back() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN IMMEDIATE")
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        await session.execute("ROLLBACK")
        assert session.status is Status.IDLE
        await session.execute("BEGIN IMMEDIATE")
        await session.execute("INSERT INTO t VALUES (2, 'b')")
        await session.aclose()
        # The writer is free again.
        with trio.fail_after(4):
            await cluster[1].node.run("INSERT INTO t VALUES (3, 'c')")
        assert await rows_of(cluster, 1, "SELECT id FROM t") == [(3,)]


async def test_begin_read_only_stays_here() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        cluster.lead(None)
        await session.execute("BEGIN READ ONLY")
        assert session.status is Status.TRANSACTION
        assert (await session.execute("SELECT x FROM t")).rows == [("a",)]
        with pytest.raises(HaError) as caught:
            await session.execute("DELETE FROM t")
        assert code_of(caught) is Code.READ_ONLY
        await session.execute("COMMIT")


async def test_local_reads_only() -> None:
    async with open_leaders() as cluster:
        await cluster[0].node.run(TABLE)
        await cluster.settle()
        session = cluster[1].session()
        session.routing = Routing(local=True)
        assert (await session.execute("SELECT * FROM t")).rows == []
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert code_of(caught) is Code.READ_ONLY
        assert "n1 at 127.0.0.1" in caught.value.message
        answer = await cluster[1].post({"sql": "DELETE FROM t"}, "/?local=true")
        assert answer.status_code == 409
        leads = await cluster[0].post({"sql": "DELETE FROM t"}, "/?local=true")
        assert leads.status_code == 200


async def test_undo_and_its_filter_run_on_the_leader() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        await session.execute("UPDATE t SET x = x || '!'")
        result = await session.execute("UNDO WHERE t(2)")
        assert result.rows_affected == 1
        assert (await session.execute("SELECT x FROM t")).rows == [("a!",), ("b",)]
        explained = await session.execute("EXPLAIN UNDO")
        assert explained.rows
        answer = await cluster[1].post(None, "/undo/0")
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == 1
        assert await rows_of(cluster, 1, "SELECT x FROM t") == [("a!",), ("b!",)]


async def test_pragmas_of_the_session_hold_on_the_leader() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute("CREATE TABLE p (id INTEGER PRIMARY KEY)")
        await session.execute("CREATE TABLE c (p REFERENCES p)")
        await session.execute("INSERT INTO c VALUES (1)")
        await session.execute("PRAGMA foreign_keys = on")
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO c VALUES (2)")
        assert code_of(caught) is Code.FOREIGN_KEY_VIOLATION
        await session.execute("BEGIN")
        await session.execute("PRAGMA defer_foreign_keys = on")
        await session.execute("INSERT INTO c VALUES (2)")
        await session.execute("INSERT INTO p VALUES (2)")
        await session.execute("COMMIT")
        await session.execute("PRAGMA query_only = on")
        with pytest.raises(HaError) as caught:
            await session.execute("DELETE FROM c")
        assert code_of(caught) is Code.READ_ONLY
        await session.execute("PRAGMA query_only = off")
        assert (await session.execute("PRAGMA foreign_keys")).rows == [(1,)]
        assert (await session.execute("SELECT count(*) FROM c")).rows == [(2,)]


async def test_temp_objects_are_here_and_no_write_may_need_them() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("CREATE TEMP TABLE mine (y)")
        await session.execute("INSERT INTO mine VALUES (1), (2)")
        assert (await session.execute("SELECT sum(y) FROM mine")).rows == [(3,)]
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO t SELECT y, y FROM mine")
        assert code_of(caught) is Code.UNSUPPORTED
        assert "leader" in caught.value.message
        await session.execute("BEGIN")
        with pytest.raises(HaError) as caught:
            await session.execute("CREATE TEMP TABLE other (y)")
        assert code_of(caught) is Code.UNSUPPORTED
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        await session.execute("COMMIT")
        assert (await session.execute("SELECT count(*) FROM t, mine")).rows == [(2,)]


async def test_an_aborted_transaction_takes_only_its_end() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT OR ROLLBACK INTO t VALUES (1, 'b')")
        assert code_of(caught) is Code.UNIQUE_VIOLATION
        assert session.status is Status.ABORTED
        with pytest.raises(HaError):
            await session.execute("INSERT INTO t VALUES (2, 'b')")
        await session.execute("ROLLBACK")
        assert session.status is Status.IDLE
        assert await rows_of(cluster, 1, "SELECT * FROM t") == []


async def test_cancel_reaches_the_statement_on_the_leader() -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    async with open_leaders() as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")

        async def cancel() -> None:
            while not cluster[0].node.database.limiter._semaphore.value < 50:  # noqa: ASYNC110
                await trio.sleep(0.01)
            session.cancel()

        nursery.start_soon(cancel)
        with trio.fail_after(20), pytest.raises(HaError) as caught:
            await session.execute(endless)
        assert code_of(caught) is Code.CANCELLED
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        await session.execute("COMMIT")


async def test_a_cancelled_task_ends_what_it_has_begun_on_the_leader() -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN IMMEDIATE")
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        with trio.move_on_after(0.1):
            await session.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT max(i) FROM n"
            )
        await session.aclose()
        with trio.fail_after(10):
            await cluster[1].node.run("INSERT INTO t VALUES (2, 'b')")
        assert await rows_of(cluster, 0, "SELECT id FROM t") == [(2,)]


# --- every protocol ------------------------------------------------------------------


async def test_http_forwards_and_answers_txseq() -> None:
    async with open_leaders() as cluster:
        answer = await cluster[1].post({"sql": TABLE})
        assert answer.status_code == 200, answer.text
        answer = await cluster[1].post({"sql": "INSERT INTO t VALUES (1, 'a')"})
        assert answer.json() == {"columns": ["rows_affected", "last_insert_id"], "rows": [[1, 1]]}
        txseq = answer.headers["x-txseq"]
        read = await cluster[1].post({"sql": "SELECT x FROM t"}, headers={"x-txseq": txseq})
        assert read.json()["rows"] == [["a"]]
        answer = await cluster[1].post({"sql": "INSERT INTO t VALUES (1, 'a')"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "unique_violation")


async def test_forward_false_redirects_to_the_leader() -> None:
    async with open_leaders() as cluster:
        path = "/?forward=false"
        answer = await cluster[1].post({"sql": TABLE}, path)
        assert answer.status_code == 307
        assert answer.headers["location"] == f"http://{cluster[0].address}/?forward=false"
        answer = await cluster[1].post({"sql": TABLE}, path, follow_redirects=True)
        assert answer.status_code == 200
        await cluster.settle()
        named = "/databases/ha.db/query?forward=false&bigint=string"
        answer = await cluster[1].post({"sql": "DELETE FROM t"}, named)
        assert answer.headers["location"] == f"http://{cluster[0].address}{named}"
        answer = await cluster[1].post(None, "/undo/0?forward=false")
        assert answer.status_code == 307
        assert answer.headers["location"] == f"http://{cluster[0].address}/undo/0?forward=false"
        assert (await cluster[1].post({"sql": "SELECT * FROM t"}, path)).status_code == 200


async def test_grpc_forwards() -> None:
    async with open_leaders() as cluster:
        connection = await cluster[1].dbapi()
        await connection.execute(TABLE)
        cursor = await connection.execute("INSERT INTO t VALUES (5, 'a') RETURNING id")
        assert await cursor.fetchall() == [(5,)]
        connection.autocommit = False
        await connection.execute("INSERT INTO t VALUES (6, 'b')")
        await connection.commit()
        connection.autocommit = True
        await connection.cursor().executemany("INSERT INTO t VALUES (?, ?)", [(7, "c"), (8, "d")])
        cursor = await connection.execute("SELECT count(*) FROM t")
        assert await cursor.fetchall() == [(4,)]


async def test_postgresql_forwards() -> None:
    async with open_leaders() as cluster:

        def work(connection: Any) -> list[Any]:
            connection.execute(TABLE)
            connection.execute("INSERT INTO t VALUES (%s, %s)", (1, "a"))
            with connection.transaction():
                connection.execute("INSERT INTO t VALUES (2, 'b')")
                assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)
                cursor = connection.execute("UPDATE t SET x = now()::text WHERE id = 2")
                assert cursor.rowcount == 1
            connection.execute("SET application_name = 'shop'")
            connection.execute("INSERT INTO t VALUES (3, current_setting('application_name'))")
            again = "INSERT INTO t VALUES (1, 'a')"
            assert sqlstate_of(lambda: connection.execute(again)) == "23505"
            with connection.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
                copy.write_row((10, "x"))
                copy.write_row((11, "y"))
            connection.execute("BEGIN READ ONLY")
            rows: list[Any] = connection.execute("SELECT id, x FROM t ORDER BY id").fetchall()
            connection.execute("COMMIT")
            return rows

        rows = await cluster[1].pg.psycopg(work)
        assert [r[0] for r in rows] == [1, 2, 3, 10, 11]
        assert rows[2] == (3, "shop")
        assert "BEGIN" not in str(rows)


async def test_create_and_drop_database_run_on_the_leader(tmp_path: Any) -> None:
    async with open_leaders() as cluster:
        session = cluster[1].session()
        with pytest.raises(HaError) as caught:
            await session.execute("CREATE DATABASE other")
        assert code_of(caught) is Code.REFUSED  # the leader's own words: it has no folder
        assert "--create-db-dir" in (caught.value.hint or "")


# --- reaching the leader -------------------------------------------------------------


async def test_writes_wait_for_a_leader_and_then_go_there() -> None:
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = cluster[2].session()
        await session.execute(TABLE)
        cluster.lead(None)

        async def elect() -> None:
            await trio.sleep(0.3)
            cluster.lead(1)

        nursery.start_soon(elect)
        started = trio.current_time()
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert trio.current_time() - started > 0.25
        cluster.lead(None)
        assert (await session.execute("SELECT x FROM t")).rows == [("a",)]  # reads do not wait


async def test_without_a_leader_writes_fail_after_a_bound() -> None:
    async with open_leaders(wait=0.2) as cluster:
        await cluster[0].node.run(TABLE)
        await cluster.settle()
        cluster.lead(None)
        answer = await cluster[1].post({"sql": "DELETE FROM t"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_leader"
        assert "retry-after" in answer.headers
        state = await cluster[1].pg.psycopg(
            lambda connection: sqlstate_of(lambda: connection.execute("DELETE FROM t"))
        )
        assert state == "57P03"
        connection = await cluster[1].dbapi()
        with pytest.raises(Exception) as caught:
            await connection.execute("DELETE FROM t")
        assert getattr(caught.value, "code", None) == "no_leader"
        for sql in ("BEGIN", "SAVEPOINT s", "UNDO"):
            with pytest.raises(HaError) as refused:
                await cluster[1].node.run(sql)
            assert code_of(refused) is Code.NO_LEADER


async def test_a_leader_out_of_reach_is_named() -> None:
    async with open_leaders(wait=0.3) as cluster:
        cluster.office.give(cluster[0], "127.0.0.1:1")
        with pytest.raises(HaError) as caught:
            await cluster[1].node.run(TABLE)
        assert code_of(caught) is Code.UNAVAILABLE
        assert "n1 at 127.0.0.1:1" in caught.value.message


async def test_the_token_goes_along_and_a_wrong_one_is_named() -> None:
    async with open_leaders(3, token="secret", tokens={"n3": "wrong"}, wait=0.3) as cluster:
        await cluster[1].node.run(TABLE)
        with pytest.raises(HaError) as caught:
            await cluster[2].node.run("DROP TABLE t")
        assert "the token is wrong" in caught.value.message
        assert "--token" in (caught.value.hint or "")
        assert "secret" not in str(caught.value)


async def test_a_node_that_forwards_to_itself_is_refused() -> None:
    async with open_leaders(wait=0.3) as cluster:
        cluster.office.give(cluster[0], cluster[1].address)
        with pytest.raises(HaError) as caught:
            await cluster[1].node.run(TABLE)
        assert "forwards to itself" in caught.value.message


async def test_a_target_that_would_forward_again_is_refused() -> None:
    async with open_leaders(3, wait=0.3) as cluster:
        cluster.office.give(cluster[0], cluster[2].address)
        with pytest.raises(HaError) as caught:
            await cluster[1].node.run(TABLE)
        assert code_of(caught) is Code.NO_LEADER
        assert "does not lead" in caught.value.message
        assert cluster[2].address in caught.value.message


async def test_a_new_leader_is_found_within_one_write() -> None:
    async with open_leaders(3) as cluster:
        session = cluster[2].session()
        await session.execute(TABLE)
        for n in range(20):
            cluster.lead(n % 3)
            await session.execute("INSERT INTO t VALUES (?, ?)", [n, str(n)])
            assert (await session.execute("SELECT count(*) FROM t")).rows == [(n + 1,)]
        await cluster.settle()


# --- lost answers --------------------------------------------------------------------


async def test_a_lost_interactive_transaction_is_rolled_back_with_40001() -> None:
    async with open_leaders(wait=1) as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        cluster[0].kill()
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO t VALUES (2, 'b')")
        assert code_of(caught) is Code.SERIALIZATION_FAILURE
        assert "run it again" in (caught.value.hint or "")
        assert session.status is Status.ABORTED
        await session.execute("ROLLBACK")
        assert session.status is Status.IDLE
        cluster.lead(1)
        assert (await session.execute("SELECT * FROM t")).rows == []


async def test_a_lost_answer_of_a_living_leader_is_settled_in_the_log() -> None:
    async with open_leaders() as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        held = Held(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cut(cluster[1])
            await trio.sleep(0.2)
            held.release()

        nursery.start_soon(disturb)
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert code_of(caught) is Code.WRITTEN_NOT_APPLIED
        assert caught.value.sequence == session.txseq
        assert (await session.execute("SELECT x FROM t")).rows == [("a",)]


async def test_a_lost_answer_to_commit_is_settled_in_the_log() -> None:
    async with open_leaders() as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        held = Held(cluster[0])
        nursery.start_soon(lose_the_answer, cluster, held)
        await session.execute("COMMIT")  # it is there, and COMMIT has no other answer
        assert session.status is Status.IDLE
        assert session.txseq == (await cluster[1].node.database.log.state()).subject_last
        assert (await session.execute("SELECT x FROM t")).rows == [("a",)]


async def test_a_write_that_a_dead_leader_never_published_goes_to_the_next_one() -> None:
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        held = Held(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cluster[0].kill()
            await trio.sleep(0.1)
            cluster.lead(2)

        nursery.start_soon(disturb)
        result = await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert result.rows_affected == 1
        rows = await cluster[2].node.rows("SELECT * FROM t")
        assert rows == [(1, "a")]


async def test_commit_on_a_dead_leader_that_never_published_is_40001() -> None:
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        await session.execute("BEGIN")
        await session.execute("INSERT INTO t VALUES (1, 'a')")
        held = Held(cluster[0])
        nursery.start_soon(die_before, cluster, held, 2)
        with pytest.raises(HaError) as caught:
            await session.execute("COMMIT")
        assert code_of(caught) is Code.SERIALIZATION_FAILURE
        assert session.status is Status.IDLE


async def test_a_write_of_a_dead_leader_is_found_in_the_log() -> None:
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        held = Held(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cut(cluster[1])
            cluster[0].kill()
            held.release()
            await trio.sleep(0.1)
            cluster.lead(2)

        nursery.start_soon(disturb)
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert code_of(caught) is Code.WRITTEN_NOT_APPLIED
        assert (await session.execute("SELECT x FROM t")).rows == [("a",)]


async def test_an_outcome_that_nobody_can_tell_is_unknown() -> None:
    async with open_leaders(settle=0.3) as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        held = Held(cluster[0])
        nursery.start_soon(die_before, cluster, held, None)
        with pytest.raises(HaError) as caught:
            await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert code_of(caught) is Code.OUTCOME_UNKNOWN
        assert "look whether it is there" in (caught.value.hint or "")


async def test_one_who_leads_no_more_and_is_silent_is_left_after_a_grace() -> None:
    """As one does that is stopped (SIGSTOP): its connections stay, and no answer comes."""
    async with open_leaders(3) as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        held = Held(cluster[0])

        async def disturb() -> None:
            await held.reached.wait()
            cluster.lead(2)

        nursery.start_soon(disturb)
        with trio.fail_after(8):
            await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert await cluster[2].node.rows("SELECT * FROM t") == [(1, "a")]


async def test_a_leader_that_hangs_is_noticed_though_nobody_else_leads() -> None:
    """Such as an appointed one that is stopped (SIGSTOP)."""
    async with open_leaders(settle=0.2) as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        frozen = await trio.open_tcp_listeners(0, host="127.0.0.1")  # accepts, and says nothing
        cluster.office.give(cluster[0], f"127.0.0.1:{frozen[0].socket.getsockname()[1]}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(channel, "_SILENCE", 0.2)
            patch.setattr(channel, "_PATIENCE", 0.2)
            with trio.fail_after(10), pytest.raises(HaError) as caught:
                await session.execute("INSERT INTO t VALUES (1, 'a')")
        assert code_of(caught) is Code.OUTCOME_UNKNOWN
        assert "no sign of life" in caught.value.message
        await frozen[0].aclose()


async def test_a_long_statement_is_no_silence() -> None:
    long = (
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 2000000) SELECT 1, max(i) FROM n"
    )
    async with open_leaders() as cluster:
        session = cluster[1].session()
        await session.execute(TABLE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(channel, "_SILENCE", 0.05)
            cut(cluster[1])
            result = await session.execute(long)
        assert result.rows_affected == 1


async def test_waiting_for_a_leader_can_be_cancelled() -> None:
    async with open_leaders() as cluster, trio.open_nursery() as nursery:
        session = cluster[1].session()
        await session.execute(TABLE)
        cluster.lead(None)

        async def cancel() -> None:
            await trio.testing.wait_all_tasks_blocked(0.05)
            session.cancel()

        nursery.start_soon(cancel)
        with trio.fail_after(5), pytest.raises(HaError) as caught:
            await session.execute("DELETE FROM t")
        assert code_of(caught) is Code.CANCELLED
        cluster.lead(0)
        await session.execute("DELETE FROM t")


async def test_a_request_that_was_given_up_never_runs() -> None:
    requests = RequestIds()
    await requests.abandon("early")
    with pytest.raises(HaError) as caught:
        requests.begin("early")
    assert code_of(caught) is Code.NOT_WRITTEN
    requests.begin("running")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(requests.abandon, "running")
        await trio.testing.wait_all_tasks_blocked()
        requests.end("running")


# --- linearizable reads --------------------------------------------------------------


async def test_linearizable_reads_ask_the_leader_and_wait_for_its_position() -> None:
    async with open_leaders() as cluster:
        await cluster[0].node.run(TABLE)
        await cluster.settle()
        reader = cluster[1].session()
        await reader.execute("SET ha.consistency = linearizable")
        assert (await reader.execute("SHOW ha.consistency")).rows == [("linearizable",)]
        for n in range(20):
            await cluster[0].node.run("INSERT INTO t VALUES (?, ?)", [n, str(n)])
            if n % 2:
                assert (await reader.execute("SELECT max(id) FROM t")).rows == [(n,)]
            else:
                async with reader.query("SELECT max(id) FROM t") as rows:
                    assert await rows.fetch(2) == [(n,)]
        assert cluster.office.confirmations == 20
        await reader.execute("SET ha.consistency TO local")
        await reader.execute("SELECT 1")
        assert cluster.office.confirmations == 20


async def test_linearizable_on_every_wire_and_on_the_leader_itself() -> None:
    async with open_leaders() as cluster:
        await cluster[0].node.run(TABLE)
        await cluster.settle()
        for index in (0, 1):
            before = cluster.office.confirmations
            path = "/?consistency=linearizable"
            answer = await cluster[index].post({"sql": "SELECT 1"}, path)
            assert answer.status_code == 200, answer.text
            listed = await cluster[index].post([{"sql": "SELECT 1"}, {"sql": "SELECT 2"}], path)
            assert listed.status_code == 200

            def work(connection: Any) -> None:
                connection.execute("SET ha.consistency = linearizable")
                connection.execute("SELECT 1 FROM t").fetchall()
                with connection.transaction():
                    connection.execute("SELECT 1 FROM t").fetchall()
                row = connection.execute("SHOW ha.consistency").fetchone()
                assert row == ("linearizable",)

            await cluster[index].pg.psycopg(work)
            connection = await cluster[index].dbapi(consistency="linearizable")
            await connection.execute("SELECT 1")
            assert cluster.office.confirmations - before >= 5, index


async def test_linearizable_without_a_leader_or_leader_mode_is_an_error() -> None:
    async with open_leaders(wait=0.2) as cluster:
        cluster.lead(None)
        answer = await cluster[1].post({"sql": "SELECT 1"}, "/?consistency=linearizable")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_leader")
        answer = await cluster[1].post({"sql": "SELECT 1"}, "/?consistency=strong")
        assert answer.status_code == 400
    async with open_cluster(1) as (node,):
        with pytest.raises(HaError) as caught:
            await node.run("SET ha.consistency = linearizable")
        assert code_of(caught) is Code.UNSUPPORTED


# --- TLS -----------------------------------------------------------------------------


async def test_tls_is_verified_unless_insecure(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = Tls(certificate, key)
    trusting = client_context(insecure=False, ca=certificate)
    async with open_leaders(tls=tls, client_tls=trusting, insecure=False) as cluster:
        await cluster[1].node.run(TABLE)
        await cluster[1].node.run("INSERT INTO t VALUES (1, ?)", ["x" * 3_000_000])
        assert (await cluster[0].node.rows("SELECT length(x) FROM t")) == [(3_000_000,)]
        answer = await cluster[1].post({"sql": "DELETE FROM t"}, "/?forward=false")
        assert answer.headers["location"].startswith(f"https://{cluster[0].address}/")
        # One that knows nobody who signed it.
        cluster[1].forwarder._tls = client_context(insecure=False)
        cut(cluster[1])
        session = cluster[1].session()
        cluster[1].node.databases.cluster = replace(
            cluster[1].node.databases.cluster,
            wait=0.2,  # type: ignore[arg-type]
        )
        session = cluster[1].session()
        with pytest.raises(HaError) as caught:
            await session.execute("DELETE FROM t")
        assert "certificate" in caught.value.message


@pytest.mark.parametrize(
    ("text", "insecure", "url"),
    [
        ("node1:8080", True, "http://node1:8080"),
        ("node1:8080", False, "https://node1:8080"),
        ("node1", True, "http://node1:8080"),
        ("[::1]:9", True, "http://[::1]:9"),
        ("http://node1:8080", True, "http://node1:8080"),
        ("http://node1", True, "http://node1:80"),
        ("https://node1/", True, "https://node1:443"),
    ],
)
def test_addresses_of_leaders(text: str, insecure: bool, url: str) -> None:
    assert parse_target(text, insecure=insecure).url == url


@pytest.mark.parametrize(
    "text", ["", ":80", "node1:x", "ftp://node1", "http://", "http://n/path", "a b:1", "n/x"]
)
def test_what_is_no_address_of_a_leader(text: str) -> None:
    with pytest.raises(HaError) as caught:
        parse_target(text, insecure=True)
    assert code_of(caught) is Code.BAD_REQUEST


# --- who is there --------------------------------------------------------------------


async def test_cluster_shows_nodes_roles_term_lease_positions_and_lag() -> None:
    async with open_leaders() as cluster:
        await cluster[0].node.run(TABLE)
        await cluster.settle()
        cluster[1].leadership.members_seen = (
            Member("n2", cluster[1].address, Role.FOLLOWER, {"ha.db": 1}),
            Member("n1", cluster[0].address, Role.LEADER, {"ha.db": 2}, 1.25),
        )
        answer = (await cluster[1].http.get("/cluster")).json()
        last = (await cluster[0].node.database.log.state()).subject_last
        assert answer == {
            "mode": "elected",
            "leader": {"name": "n1", "address": cluster[0].address, "term": 1},
            "term": 1,
            "lease_left": 2.5,
            "nodes": [
                {
                    "name": "n2",
                    "address": cluster[1].address,
                    "role": "follower",
                    "last_seen": 0.0,
                    "databases": [{"id": "ha.db", "position": last, "lag": 0}],
                },
                {
                    "name": "n1",
                    "address": cluster[0].address,
                    "role": "leader",
                    "last_seen": 1.25,
                    "databases": [{"id": "ha.db", "position": last, "lag": 0}],
                },
            ],
        }
        text = _show_cluster(answer).splitlines()
        assert text[0].split() == ["NODE", "ROLE", "SEEN", "POSITIONS", "LAG", "ADDRESS"]
        assert text[1].split()[:3] == ["n2", "follower", "here"]
        assert text[-1].endswith("leads; term 1, lease for 2.5 s")


async def test_cluster_without_leader_mode_lists_all_writers() -> None:
    async with open_cluster(2) as nodes:
        await nodes[0].run(TABLE)
        await settle(nodes)
        await trio.testing.wait_all_tasks_blocked()
        found = await NodeOperations(nodes[0].databases).cluster()
        assert (found.mode, found.leader, found.lease_left) == ("leaderless", None, None)
        assert [(n.name, n.role) for n in found.nodes] == [("n1", "writer"), ("n2", "writer")]
        assert [[p.lag for p in n.positions] for n in found.nodes] == [[0], [0]]
