"""Full-text and R-Tree tables written on two nodes in turn: executors cache what appliers write
beneath them, in the same file."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest

from tests.support.dump import dump, problems
from tests.support.law import Reader, Writer

SCHEMA = (
    "CREATE VIRTUAL TABLE words USING fts5(a, b)",
    "CREATE VIRTUAL TABLE lean USING fts5(a, detail=none, columnsize=0, content='')",
    "CREATE VIRTUAL TABLE older USING fts4(a, b)",
    "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, +label)",
    "CREATE TABLE notes(id INTEGER PRIMARY KEY, body)",
    "CREATE VIRTUAL TABLE notes_index USING fts5(body, content='notes', content_rowid='id')",
    "CREATE TRIGGER notes_in AFTER INSERT ON notes BEGIN"
    " INSERT INTO notes_index(rowid, body) VALUES (new.id, new.body); END",
    "CREATE TRIGGER notes_out AFTER DELETE ON notes BEGIN"
    " INSERT INTO notes_index(notes_index, rowid, body) VALUES ('delete', old.id, old.body); END",
    "CREATE TRIGGER notes_up AFTER UPDATE ON notes BEGIN"
    " INSERT INTO notes_index(notes_index, rowid, body) VALUES ('delete', old.id, old.body);"
    " INSERT INTO notes_index(rowid, body) VALUES (new.id, new.body); END",
)
WORDS = ("one", "two", "three", "four", "ünï", "five six")


class Node:
    """A file with an executor and an applier, as a node has them."""

    def __init__(self, path: Path) -> None:
        self.executor = Writer(self._open(path))
        self.applier = Reader(self._open(path))

    def _open(self, path: Path) -> apsw.Connection:
        db = apsw.Connection(str(path))
        db.set_busy_timeout(1000)
        db.pragma("journal_mode", "wal")
        db.pragma("synchronous", 0)
        return db


def work(draw: random.Random) -> list[str]:
    n, word, other = draw.randrange(20), draw.choice(WORDS), draw.choice(WORDS)
    return draw.sample(
        [
            f"INSERT OR REPLACE INTO words(rowid, a, b) VALUES ({n}, '{word}', '{other}')",
            f"UPDATE words SET b = '{word} {other}' WHERE rowid = {n}",
            f"DELETE FROM words WHERE words MATCH '\"{word}\"' AND rowid > {n}",
            f"INSERT INTO lean(rowid, a) VALUES ({n}, '{word}')",
            f"INSERT INTO older(a, b) VALUES ('{word}', '{other}')",
            f"UPDATE older SET a = '{other}' WHERE rowid = {n}",
            "INSERT INTO older(older) VALUES ('merge=2,2')",
            f"INSERT OR REPLACE INTO boxes VALUES ({n}, {n}, {n} + 5, '{word}')",
            f"DELETE FROM boxes WHERE x0 > {n} AND x1 < {n} + 8",
            f"INSERT OR IGNORE INTO notes VALUES ({n}, '{word}')",
            f"UPDATE notes SET body = '{other}' WHERE id = {n}",
            f"DELETE FROM notes WHERE id = {n}",
            "INSERT INTO words(words, rank) VALUES ('merge', 4)",
            "INSERT INTO words(words) VALUES ('optimize')",
        ],
        3,
    )


QUERIES = [
    sql
    for word in WORDS
    for sql in (
        f"SELECT rowid, a, b FROM words WHERE words MATCH '\"{word}\"' ORDER BY rank, rowid",
        f"SELECT rowid FROM lean WHERE lean MATCH '{word.split()[0]}' ORDER BY rowid",
        f"SELECT docid, a FROM older WHERE older MATCH '\"{word}\"' ORDER BY docid",
        f"SELECT rowid FROM notes_index WHERE notes_index MATCH '\"{word}\"' ORDER BY rowid",
    )
] + ["SELECT * FROM boxes WHERE x0 < 10 AND x1 > 4 ORDER BY id"]


@pytest.mark.parametrize("seed", range(3))
def test_virtual_tables_written_on_two_nodes_in_turn(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    nodes = [Node(tmp_path / "one.db"), Node(tmp_path / "two.db")]
    for turn in range(40):
        here, there = nodes if draw.random() < 0.5 else reversed(nodes)
        captured = here.executor.transaction(*(SCHEMA if turn == 0 else work(draw)))
        applied = there.applier.receive(captured)
        if applied is not None:
            assert applied.applied, applied.reason
            assert applied.skipped == 0
        one, two = nodes
        for sql in QUERIES if turn else ():
            assert (
                one.executor.db.execute(sql).fetchall() == two.executor.db.execute(sql).fetchall()
            )
    one, two = nodes
    assert dump(one.executor.db) == dump(two.executor.db)
    assert dump(tmp_path / "one.db")["tables"]["words_content"]
    for node in nodes:
        node.executor.recorder.close()
        assert problems(node.executor.db) == []
        assert problems(node.applier.db) == []
