"""Undo brings back the earlier state, value by value; or says why it cannot, and does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import trio
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from ha.core.changeset import ChangeSet, Identify, Kind, Origin, encode
from ha.core.errors import Code, HaError
from ha.log.api import Outgoing
from ha.log.memory import MemoryStream
from tests.support.cluster import TestNode, open_cluster
from tests.support.dump import dump
from tests.support.law import Reader, Writer, copy_of, run_all

SCHEMA = (
    "CREATE TABLE a(id INTEGER PRIMARY KEY, u UNIQUE, v)",
    "CREATE TABLE b(k TEXT PRIMARY KEY COLLATE NOCASE, u UNIQUE, v)",
    "CREATE TABLE c(x, y)",
    "CREATE TABLE d(k, l, v, PRIMARY KEY (k, l)) WITHOUT ROWID",
    "CREATE TABLE e(id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
    "CREATE TRIGGER a_u AFTER UPDATE ON a BEGIN INSERT INTO c VALUES (old.id, new.v); END",
)
VALUES = ["NULL", "0", "1", "2.5", "'x'", "'X'", "x'78'", "CAST(x'ff' AS TEXT)", "-0.0", "9e999"]
value = st.sampled_from(VALUES)
number = st.integers(0, 4).map(str)
text = st.sampled_from(["'p'", "'P'", "'q'", "'r'"])
unique = st.sampled_from(["NULL", "1", "2", "3", "'1'"])

statement = st.one_of(
    st.builds("INSERT OR IGNORE INTO a VALUES ({}, {}, {})".format, number, unique, value),
    st.builds("INSERT OR REPLACE INTO a VALUES ({}, {}, {})".format, number, unique, value),
    st.builds("UPDATE OR REPLACE a SET u = {}, v = {} WHERE id = {}".format, unique, value, number),
    st.builds("UPDATE OR IGNORE a SET id = id + {} WHERE id >= {}".format, number, number),
    st.builds("DELETE FROM a WHERE id = {}".format, number),
    st.builds("INSERT OR REPLACE INTO b VALUES ({}, {}, {})".format, text, unique, value),
    st.builds("UPDATE OR REPLACE b SET k = {}, v = {} WHERE k = {}".format, text, value, text),
    st.builds("DELETE FROM b WHERE k = {}".format, text),
    st.builds("INSERT INTO c VALUES ({}, {})".format, value, value),
    st.builds("UPDATE c SET y = {} WHERE x IS {}".format, value, value),
    st.builds("DELETE FROM c WHERE rowid = {}".format, number),
    st.builds("INSERT OR REPLACE INTO d VALUES ({}, {}, {})".format, number, text, value),
    st.builds("UPDATE OR IGNORE d SET k = {} WHERE l = {}".format, number, text),
    st.builds("DELETE FROM d WHERE k = {}".format, number),
    st.builds("INSERT INTO e(v) VALUES ({})".format, value),
    st.builds("DELETE FROM e WHERE v IS {}".format, value),
)
transaction = st.lists(statement, min_size=1, max_size=4)


def content(node: TestNode) -> Any:
    return dump(node.database.store.path)


@settings(max_examples=150, deadline=None)
@given(st.lists(transaction, min_size=1, max_size=8), st.data())
def test_undo_restores_the_state_before_a_transaction(
    transactions: list[list[str]], data: st.DataObject
) -> None:
    async def main() -> None:
        async with open_cluster(1) as [node]:
            for sql in SCHEMA:
                await node.run(sql)
            places: list[tuple[int, Any]] = []
            session = node.session()
            for statements in transactions:
                before = content(node)
                await session.execute("BEGIN")
                for sql in statements:
                    await session.execute(sql)
                last = session.txseq
                await session.execute("COMMIT")
                if session.txseq != last:
                    places.append((session.txseq, before))
            if not places:
                return
            now = content(node)
            n, expected = data.draw(st.sampled_from(places))
            await node.run(f"UNDO {n}")
            assert content(node) == expected
            if now != expected:  # else nothing was written, and the last transaction is another
                await node.run("UNDO")
            assert content(node) == now

    trio.run(main)


def known_rows(content: Any) -> Any:
    """Without the rowids of ``b``, whose key is another: a race may have moved them."""
    rows = sorted((row[1:] for row in content["tables"]["b"]), key=repr)
    return {**content, "tables": {**content["tables"], "b": rows}}


class Races:
    """A log whose transactions ran on states that were old when they were published."""

    def __init__(self, identify: Identify) -> None:
        self.identify = identify
        self.messages: list[ChangeSet] = []
        base = Reader()
        base.db.execute("; ".join(SCHEMA))
        self.states: list[apsw.Connection] = [base.db]

    def add(self, statements: Sequence[str], age: int) -> None:
        now = len(self.states) - 1
        base = max(0, now - age)
        writer = Writer(copy_of(self.states[base]))
        captured = writer.transaction(*statements)
        if captured is None:
            return
        cs = ChangeSet(
            node=f"n{len(self.messages)}",
            process_id=1,
            database_id="ha.db",
            changes=captured.changes,
            origin=Origin(f"n{len(self.messages)}", 1, 1),
            base=base,
            identify=self.identify,
            sequences=captured.sequences,
        )
        reader = Reader(copy_of(self.states[now]))
        assert reader.apply(cs).applied
        self.messages.append(cs)
        self.states.append(reader.db)


@settings(max_examples=250, deadline=None)
@example(  # a row that a race had removed before, in whose place another stands, came back
    [
        (["INSERT INTO b VALUES ('q', NULL, NULL)"], 0),
        (["INSERT INTO b VALUES ('p', NULL, NULL)"], 1),
        (["INSERT INTO a VALUES (1, NULL, NULL)"], 2),
    ],
    Identify.ROWID,
    2,
)
@example(  # the greater of two numbers in sqlite_sequence stands, not the later one
    [
        (["INSERT INTO e(v) VALUES (NULL), (NULL)"], 0),
        (["INSERT INTO e(v) VALUES (NULL)"], 1),
        (["INSERT INTO e(v) VALUES (NULL)"], 1),
    ],
    Identify.PK,
    2,
)
@example(  # a row that a clash removed, and that was inserted again since
    [
        (["INSERT INTO a VALUES (1, 1, NULL)"], 0),
        (["INSERT INTO a VALUES (0, 1, NULL)"], 1),
        (["INSERT INTO a VALUES (1, NULL, NULL)"], 0),
    ],
    Identify.PK,
    1,
)
@given(
    st.lists(st.tuples(transaction, st.integers(0, 3)), min_size=2, max_size=8),
    st.sampled_from(Identify),
    st.integers(0, 7),
)
def test_undo_after_races_is_exact_or_refused(
    transactions: list[tuple[list[str], int]], identify: Identify, place: int
) -> None:
    races = Races(identify)
    for statements, age in transactions:
        races.add(statements, age)
    if not races.messages:
        return
    chosen = min(place, len(races.messages) - 1)

    async def main() -> None:
        stream = MemoryStream(epoch="test")
        opening = ChangeSet("n", 1, "ha.db", (), kind=Kind.BASE, origin=Origin("n", 1, 1), uuid="u")
        subject = "ha_replication.ha_db"
        stream.append(subject, Outgoing("base", encode(opening)))
        for i, sql in enumerate(SCHEMA):
            schema = Writer()
            run_all(schema.db, SCHEMA[:i])
            captured = schema.transaction(sql)
            assert captured is not None
            cs = ChangeSet("s", 1, "ha.db", captured.changes, origin=Origin("s", 1, i + 1))
            stream.append(subject, Outgoing(f"s{i}", encode(cs)))
        shift = stream.last
        for i, cs in enumerate(races.messages):
            moved = encode(
                ChangeSet(
                    cs.node,
                    cs.process_id,
                    cs.database_id,
                    cs.changes,
                    origin=cs.origin,
                    base=shift + (cs.base or 0),
                    identify=cs.identify,
                    sequences=cs.sequences,
                )
            )
            stream.append(subject, Outgoing(f"m{i}", moved))
        async with open_cluster(1, stream=stream) as [node]:
            await node.database.committer.wait_applied(stream.last)
            now = content(node)
            assert now == dump(races.states[-1])
            refusal: HaError | None = None
            try:
                await node.run(f"UNDO {shift + chosen + 1}")
            except HaError as error:
                refusal = error
            if refusal is None:
                event(f"exact {identify}")
                assert known_rows(content(node)) == known_rows(dump(races.states[chosen]))
            else:
                event(f"refused {identify}")
                assert refusal.code is Code.CONSTRAINT_VIOLATION
                assert content(node) == now

    trio.run(main)
