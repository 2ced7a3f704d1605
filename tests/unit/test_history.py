"""HISTORY, UNDO, UNDOE and UNDOT through a session, on a log in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from ha.core.changeset import Origin, decode, encode
from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.core.undo import Mode
from ha.engine import undoing
from ha.engine.api import Statement
from ha.log.api import Outgoing
from ha.log.memory import MemoryBroker, MemoryStream
from tests.support.cluster import TestNode, open_cluster, open_node, settle
from tests.support.dump import dump

SCHEMA = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, data)"


def content(node: TestNode) -> object:
    return dump(node.database.store.path)


async def sequence(node: TestNode, sql: str, params: object = None) -> int:
    """Run a write; where it stands in the log."""
    session = node.session()
    await session.execute(sql, params)  # type: ignore[arg-type]
    return session.txseq


async def test_history_names_sequence_statements_and_time() -> None:
    async with open_cluster(1) as [node]:
        created = await sequence(node, SCHEMA)
        inserted = await sequence(node, "INSERT INTO t VALUES (1, 'it''s', x'00ff')")
        updated = await sequence(node, "UPDATE t SET data = 1.5 WHERE id = 1")
        deleted = await sequence(node, "DELETE FROM t")
        rows = await node.rows(f"HISTORY {created}")
        assert [(r[0], r[1]) for r in rows] == [
            (created, f"{SCHEMA} /* n1 */"),
            (inserted, "INSERT INTO t (id, name, data) VALUES (1, 'it''s', x'00ff') /* n1 */"),
            (updated, "UPDATE t SET data = 1.5 WHERE id = 1 /* n1 */"),
            (deleted, "DELETE FROM t WHERE id = 1 /* n1 */"),
        ]
        assert await node.rows("HISTORY") == rows[-1:]
        assert await node.rows("history 0;") == rows[-1:]
        assert await node.rows("HISTORY '1h'") == rows
        assert await node.rows(f"HISTORY {deleted + 1}") == []
        assert (await node.run("HISTORY")).columns[2].decltype == "TIMESTAMP"
        # what history shows can be run
        for _, text, _ in rows:
            await node.rows(f"EXPLAIN {text}" if "CREATE" not in str(text) else "SELECT 1")


async def test_history_is_fetched_in_pages() -> None:
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(x)")
        for n in range(5):
            await node.run("INSERT INTO t VALUES (?)", [n])
        session = node.session()
        async with session.query("HISTORY 1") as rows:
            assert [len(await rows.fetch(4)) for _ in range(3)] == [4, 2, 0]
        with pytest.raises(HaError) as info:
            await session.execute("HISTORY 1", max_rows=3)
        assert info.value.code is Code.TOO_LARGE


async def test_a_duration_is_measured_by_the_brokers_clock() -> None:
    now = 1_000_000_000_000_000_000
    stream = MemoryStream(epoch="test", now_ns=lambda: now)
    async with open_cluster(1, stream=stream) as [node]:
        await node.run(SCHEMA)
        now += 60 * 10**9
        first = await sequence(node, "INSERT INTO t(id) VALUES (1)")
        now -= 30 * 10**9  # the broker's clock jumps back: what follows is inside all the same
        second = await sequence(node, "INSERT INTO t(id) VALUES (2)")
        now += 40 * 10**9
        assert [r[0] for r in await node.rows("HISTORY '30s'")] == [first, second]
        await node.run("UNDO '30s'")
        assert await node.rows("SELECT * FROM t") == []
        now += 3600 * 10**9
        assert await node.rows("HISTORY '1s'") == []
        assert (await node.run("UNDO 1s")).rows_affected == 0


async def test_undo_reverts_everything_from_a_sequence_on_every_node() -> None:
    async with open_cluster(2) as nodes:
        node, other = nodes
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', NULL)")
        before = content(node)
        n = await sequence(node, "UPDATE t SET name = name || '!', data = x'01' WHERE id < 3")
        await node.run("DELETE FROM t WHERE id = 3")
        await settle(nodes)
        await other.run("INSERT INTO t VALUES (3, 'C', 'x'), (4, 'd', 4)")
        await settle(nodes)
        changed = content(node)
        session = node.session()
        result = await session.execute(f"UNDO {n}")
        assert (result.verb, result.rows_affected) == ("UNDO", 4)
        assert session.txseq > n
        assert content(node) == before
        await settle(nodes)
        assert content(other) == before
        await node.run("UNDO")  # of the undo
        assert content(node) == changed
        await node.run("UNDO")
        assert content(node) == before


async def test_unique_values_that_were_swapped_are_swapped_back() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)")
        before = content(node)
        session = node.session()
        await session.transaction(
            [
                Statement("UPDATE t SET name = 'x' WHERE id = 1"),
                Statement("UPDATE t SET name = 'a' WHERE id = 2"),
                Statement("UPDATE t SET name = 'b' WHERE id = 1"),
            ]
        )
        await node.run("UNDO")
        assert content(node) == before


async def test_undoe_reverts_the_rows_that_a_transaction_touched_whoever_changed_them() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1)")
        n = await sequence(node, "UPDATE t SET data = 2 WHERE id = 1")
        await node.run("UPDATE t SET data = 3")
        await node.run(f"UNDOE {n}")
        assert await node.rows("SELECT id, data FROM t") == [(1, 1), (2, 3)]


async def test_undot_reverts_the_transactions_that_touched_them() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1)")
        n = await sequence(node, "UPDATE t SET data = 2 WHERE id = 1")
        await node.run("UPDATE t SET data = 7 WHERE id = 3")
        await node.run("UPDATE t SET data = 3 WHERE id < 3")
        await node.run(f"UNDOT {n}")
        assert await node.rows("SELECT id, data FROM t") == [(1, 1), (2, 1), (3, 7)]


async def test_undot_refuses_when_another_transaction_came_after() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1)")
        n = await sequence(node, "UPDATE t SET data = 2")
        await node.run("UPDATE t SET data = 3 WHERE id = 1")
        m = await sequence(node, "UPDATE t SET data = 4 WHERE id = 2")
        await sequence(node, "UPDATE t SET name = 'z' WHERE id = 2")
        state = content(node)
        with pytest.raises(HaError) as info:
            await node.run(f"UNDOT {n} WHERE t(1)")
        assert info.value.code is Code.CONSTRAINT_VIOLATION
        assert str(m) in info.value.message
        assert "row 2 of t" in info.value.message
        assert content(node) == state
        await node.run(f"UNDOT {n}")  # all of them touched rows that n touched
        assert await node.rows("SELECT * FROM t") == [(1, "a", 1), (2, "b", 1)]


async def test_a_filter_limits_an_undo_to_rows() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        n = await sequence(node, "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1)")
        await node.run("UPDATE t SET data = 2")
        await node.run(f"UNDO {n + 1} WHERE t(1, 3)")
        assert await node.rows("SELECT id, data FROM t") == [(1, 1), (2, 2), (3, 1)]
        await node.run(f'undo {n} where "t"( 2 ) ;')
        assert await node.rows("SELECT id FROM t") == [(1,), (3,)]


async def test_an_undo_that_would_replace_another_row_is_refused_with_the_row() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1)")
        n = await sequence(node, "UPDATE t SET name = 'b' WHERE id = 1")
        await node.run("INSERT INTO t VALUES (2, 'a', 2)")
        with pytest.raises(HaError) as info:
            await node.run(f"UNDOE {n}")
        assert info.value.code is Code.CONSTRAINT_VIOLATION
        assert "UNIQUE constraint failed: t.name" in info.value.message
        assert await node.rows("SELECT name FROM t ORDER BY id") == [("b",), ("a",)]


@pytest.mark.parametrize(
    "ddl", ["ALTER TABLE t ADD COLUMN more", "ALTER TABLE t RENAME TO u", "DROP TABLE t"]
)
async def test_a_schema_that_changed_since_is_an_obstacle(ddl: str) -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        await node.run("INSERT INTO t VALUES (1, 'a', 1)")
        n = await sequence(node, "UPDATE t SET data = 2")
        at = await sequence(node, ddl)
        with pytest.raises(HaError) as info:
            await node.run(f"UNDO {n}")
        assert info.value.code is Code.CONSTRAINT_VIOLATION
        assert f"the schema changed at {at}: {ddl}" in info.value.message


async def test_schema_changes_stay_and_rows_of_new_tables_go() -> None:
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE keep(x)")
        n = await sequence(node, SCHEMA)
        await node.run("INSERT INTO t(id) VALUES (1)")
        await node.run("ALTER TABLE t ADD COLUMN more")
        await node.run("INSERT INTO t(id) VALUES (2)")
        await node.run("CREATE TABLE gone(x)")
        await node.run("INSERT INTO gone VALUES (1)")
        await node.run("DROP TABLE gone")
        report = await node.session().undo(Mode.UNDO, Since(n))
        assert await node.rows("SELECT * FROM t") == []
        assert report.schema == [
            SCHEMA,
            "ALTER TABLE t ADD COLUMN more",
            "CREATE TABLE gone(x)",
            "DROP TABLE gone",
        ]


async def test_autoincrement_starts_again_where_it_was() -> None:
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x)")
        await node.run("INSERT INTO a(x) VALUES (1), (2)")
        before = content(node)
        await node.run("INSERT INTO a(x) VALUES (3)")
        await node.run("UNDO")
        assert content(node) == before


async def test_triggers_cascades_and_full_text_are_reverted_as_they_were_written() -> None:
    async with open_cluster(1) as [node]:
        for sql in [
            "CREATE TABLE docs(id INTEGER PRIMARY KEY, body)",
            "CREATE VIRTUAL TABLE words USING fts5(body, content='docs', content_rowid='id')",
            "CREATE TABLE audit(at INTEGER PRIMARY KEY, what)",
            "CREATE TRIGGER docs_i AFTER INSERT ON docs BEGIN"
            " INSERT INTO words(rowid, body) VALUES (new.id, new.body);"
            " INSERT INTO audit(what) VALUES ('i'); END",
            "CREATE TRIGGER docs_d AFTER DELETE ON docs BEGIN"
            " INSERT INTO words(words, rowid, body) VALUES ('delete', old.id, old.body);"
            " INSERT INTO audit(what) VALUES ('d'); END",
            "INSERT INTO docs(body) VALUES ('red fish'), ('blue fish')",
        ]:
            await node.run(sql)
        before = content(node)
        n = await sequence(node, "INSERT INTO docs(body) VALUES ('old fish')")
        await node.run("DELETE FROM docs WHERE id = 1")
        await node.run(f"UNDO {n}")
        assert content(node) == before
        found = await node.rows("SELECT rowid FROM words('fish') ORDER BY rowid")
        assert found == [(1,), (2,)]
        await node.run("INSERT INTO words(words) VALUES ('integrity-check')")
        # One row of it cannot be reverted without the index that others changed since.
        n = await sequence(node, "INSERT INTO docs(body) VALUES ('new fish')")
        await node.run("INSERT INTO docs(body) VALUES ('fat fish')")
        with pytest.raises(HaError, match="virtual table words"):
            await node.run(f"UNDOE {n}")


async def test_what_cannot_be_undone_is_refused_by_name() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        n = await sequence(node, "INSERT INTO t(id) VALUES (1)")
        for sql, code in [
            (f"UNDO {n + 5}", Code.NOT_FOUND),
            (f"UNDOE {n + 5}", Code.NOT_FOUND),
            ("UNDOE '5m'", Code.BAD_REQUEST),
            ("UNDO nonsense", Code.BAD_REQUEST),
            ("UNDO 5 WHERE id = 3", Code.SYNTAX_ERROR),
            ("HISTORY 1 2", Code.SYNTAX_ERROR),
            ("UNDO 5; SELECT 1", Code.BAD_REQUEST),
        ]:
            with pytest.raises(HaError) as info:
                await node.run(sql)
            assert info.value.code is code, sql
        session = node.session()
        await session.execute("BEGIN")
        with pytest.raises(HaError) as info:
            await session.execute("UNDO")
        assert info.value.code is Code.IN_TRANSACTION


async def test_what_the_log_has_forgotten_cannot_be_undone() -> None:
    stream = MemoryStream(epoch="test")
    async with open_cluster(1, stream=stream) as [node]:
        await node.run(SCHEMA)
        n = await sequence(node, "INSERT INTO t(id) VALUES (1)")
        m = await sequence(node, "INSERT INTO t(id) VALUES (2)")
        stream.drop_before(m)
        with pytest.raises(HaError) as info:
            await node.run(f"UNDO {n}")
        assert info.value.code is Code.NOT_FOUND
        assert f"begins at {m}" in info.value.message
        await node.run(f"UNDO {m}")
        assert await node.rows("SELECT id FROM t") == [(1,)]
        stream.drop_before(m + 100)
        await node.run("UNDO 0")
        assert await node.rows("SELECT id FROM t") == [(1,)]


async def test_explain_undo_shows_what_it_would_do() -> None:
    async with open_cluster(1) as [node]:
        await node.run(SCHEMA)
        n = await sequence(node, "INSERT INTO t VALUES (1, 'a', 1)")
        before = content(node)
        rows = await node.rows(f"EXPLAIN UNDO {n}")
        assert rows == [
            ("summary", f"1 rows change; 1 transactions, from {n} to {n}"),
            ("change", "DELETE FROM t WHERE id = 1"),
        ]
        assert content(node) == before
        assert await node.rows("HISTORY") != []
        assert (await node.rows("HISTORY"))[0][0] == n


async def test_undo_while_others_write_ends_on_a_state_it_was_computed_for() -> None:
    async with open_cluster(2) as nodes:
        await nodes[0].run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await nodes[0].run("INSERT INTO t VALUES (0, 'kept')")
        await settle(nodes)
        n = await sequence(nodes[0], "UPDATE t SET x = 'changed'")
        stop = False

        async def write(node: TestNode, offset: int) -> None:
            key = offset
            while not stop:
                await node.run("INSERT INTO t VALUES (?, 'other')", [key])
                key += 2
                await trio.sleep(0.002)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, nodes[0], 1)
            nursery.start_soon(write, nodes[1], 2)
            await trio.sleep(0.05)
            await nodes[0].run(f"UNDOE {n}")
            await trio.sleep(0.02)
            stop = True
        await settle(nodes)
        assert await nodes[1].rows("SELECT x FROM t WHERE id = 0") == [("kept",)]
        assert content(nodes[0]) == content(nodes[1])
        await nodes[0].run(f"UNDO {n}")
        await settle(nodes)
        assert await nodes[1].rows("SELECT * FROM t") == [(0, "kept")]


async def test_a_transaction_in_parts_is_shown_and_undone_as_one() -> None:
    stream = MemoryStream(epoch="test", max_payload=20_000)
    async with open_cluster(2, stream=stream) as nodes:
        await nodes[0].run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        before = content(nodes[0])
        n = await sequence(
            nodes[0],
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
            " INSERT INTO t SELECT i, hex(zeroblob(100)) FROM n",
        )
        assert n > 5
        items = await nodes[0].rows(f"HISTORY {n}")
        assert [r[0] for r in items] == [n]
        assert str(items[0][1]).count("INSERT") == 500
        await nodes[0].run(f"UNDO {n}")
        await settle(nodes)
        assert content(nodes[0]) == before == content(nodes[1])


async def test_an_undo_whose_transaction_was_under_way_with_forgotten_ones_is_refused() -> None:
    """What stood before it was written by one that it had not seen, and the log has let go of."""
    stream = MemoryStream(epoch="test")
    async with MemoryBroker(stream, node="n1") as broker, open_node("n1", broker) as node:
        await node.run("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await node.run("INSERT INTO t VALUES (1, 'a')")
        seen = node.database.committer.applied
        await node.run("UPDATE t SET x = 'b'")
        subject = node.database.log.subject
        update = decode(stream.subject(subject).entries[-1].payload)
        (change,) = update.changes
        racing = replace(
            update,
            node="n9",
            process_id=9,
            changes=(replace(change, new_values=(1, "c")),),
            origin=Origin("n9", 9, 1),
            base=seen,
        )
        ack = stream.append(subject, Outgoing("n9-9-1", encode(racing)))
        await settle([node])
        assert await node.rows("SELECT x FROM t") == [("c",)]
        report = await node.session().undo(Mode.ENTITIES, Since(ack.sequence), dry_run=True)
        assert "'b'" in str(report.statements)
        stream.drop_before(ack.sequence)
        with pytest.raises(HaError) as refused:
            await node.run(f"UNDOE {ack.sequence}")
        assert refused.value.code is Code.NOT_FOUND
        assert f"written from {seen + 1} on" in refused.value.message
        assert await node.rows("SELECT x FROM t") == [("c",)]


@pytest.mark.parametrize(("seconds", "expected"), [(1, 5), (70, 2)])
async def test_an_undo_that_others_overtake_again_and_again_gives_up(
    seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Where reading the history takes long, after fewer tries: somebody waits for an answer."""
    tries = 0

    async def overtaken(undo: undoing._Undo) -> undoing.UndoReport:
        nonlocal tries
        tries += 1
        await trio.sleep(seconds)
        raise undoing._PlanAgain

    monkeypatch.setattr(undoing._Undo, "run", overtaken)
    async with open_cluster(1) as [node]:
        await node.run("CREATE TABLE t(x)")
        with pytest.raises(HaError) as info:
            await node.run("UNDO")
    assert info.value.code is Code.SERIALIZATION_FAILURE
    assert tries == expected
