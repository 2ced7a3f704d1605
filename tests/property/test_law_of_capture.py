"""The law of capture: for every state S and transaction t, applying t's message to S gives the
database that executing t on S gave. On one store, without any log."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import apsw
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from ha.core.changeset import Identify
from ha.core.errors import Code, HaError
from ha.store.capture import Captured, Mark
from tests.support.dump import dump, problems
from tests.support.law import FAILURES, Reader, Writer, copy_of
from tests.support.statements import FTS, RTREE, dml, openings, statements

EXAMPLES = int(os.environ.get("HA_EXAMPLES", "300"))


@dataclass
class Unit:
    """A transaction in a batch. ``keep`` False: the engine gives it up and rolls it back."""

    statements: list[str]
    keep: bool = True


@dataclass
class Batch:
    """Transactions that run in savepoints of one SQLite transaction. ``commit`` False: all of it
    is rolled back, after the messages were made (a foreign message came in between)."""

    units: list[Unit]
    commit: bool = True
    captured: list[Captured] = field(default_factory=list)


units = st.builds(
    Unit, st.lists(statements, min_size=1, max_size=6), st.sampled_from((True, True, True, False))
)
batches = st.builds(
    Batch, st.lists(units, min_size=1, max_size=3), st.sampled_from((True, True, True, False))
)
fillings = st.lists(dml, max_size=8)


def run_batch(writer: Writer, batch: Batch) -> bool:
    """True if it was committed; then ``batch.captured`` is what it changed."""
    db = writer.db
    db.execute("BEGIN IMMEDIATE")
    for unit in batch.units:
        db.execute("SAVEPOINT ha_unit")
        captured = run_unit(writer, unit)
        if not db.in_transaction:
            return False
        if captured is None:
            writer.recorder.discard()
            db.execute("ROLLBACK TO ha_unit")
        elif captured[0] is not None:
            batch.captured.append(captured[0])
        db.execute("RELEASE ha_unit")
        if not db.in_transaction:  # the client released ha_unit: cannot happen here
            raise AssertionError("the transaction was closed")
    if not batch.commit:
        db.execute("ROLLBACK")
        return False
    try:
        db.execute("COMMIT")
    except apsw.ConstraintError:  # a deferred foreign key
        db.execute("ROLLBACK")
        return False
    return True


def run_unit(writer: Writer, unit: Unit) -> tuple[Captured | None] | None:
    """None: given up, to be rolled back."""
    db, recorder = writer.db, writer.recorder
    recorder.start()
    savepoints: list[tuple[str, Mark]] = []
    for sql in unit.statements:
        words = sql.split()
        try:
            if words[0] == "SAVEPOINT":
                db.execute(sql)
                savepoints.append((words[1], recorder.mark()))
            elif words[0] in ("RELEASE", "ROLLBACK"):
                named = [i for i, (name, _) in enumerate(savepoints) if name == words[-1]]
                if not named:
                    continue
                db.execute(sql)
                if words[0] == "RELEASE":
                    del savepoints[named[-1] :]
                else:
                    recorder.rewind(savepoints[named[-1]][1])
                    del savepoints[named[-1] + 1 :]
            else:
                writer.statement(sql)
        except FAILURES as error:
            note(f"   {sql} -> {error}")
            if not db.in_transaction:
                return None
        except HaError as error:
            note(f"   {sql} -> {error}")
            if error.code is Code.INTERNAL:
                raise
            return None
        else:
            note(f"   {sql}")
    if not unit.keep:
        return None
    try:
        return (recorder.finish(),)
    except HaError as error:
        if error.code is not Code.REFUSED:  # what is not a sequence
            raise
        return None


def assert_equal(one: apsw.Connection, two: apsw.Connection) -> None:
    first, second = dump(one), dump(two)
    for name in first:
        assert first[name] == second.get(name), name
    assert first == second


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    opening=openings(),
    filling=fillings,
    work=st.lists(batches, min_size=1, max_size=4),
    identify=st.sampled_from(list(Identify)),
    foreign_keys=st.booleans(),
    recursive=st.booleans(),
)
def test_applying_a_message_gives_what_executing_gave(
    opening: list[str],
    filling: list[str],
    work: list[Batch],
    identify: Identify,
    foreign_keys: bool,
    recursive: bool,
) -> None:
    writer = Writer(foreign_keys=foreign_keys)
    writer.db.pragma("recursive_triggers", recursive)
    writer.db.pragma("max_page_count", 5000)
    reader = Reader()
    start = [Batch([Unit(opening)]), Batch([Unit(filling)])]
    try:
        for batch in start + work:
            note(f"-- {batch.commit=}")
            batch.captured.clear()
            if not run_batch(writer, batch):
                assert_equal(writer.db, reader.db)
                continue
            for captured in batch.captured:
                for change in captured.changes:
                    note(f"      {change}")
                applied = reader.receive(captured, identify)
                assert applied is not None
                assert applied.applied, applied.reason
                assert applied.skipped == 0, applied
            assert_equal(writer.db, reader.db)
        again = copy_of(reader.db)
        assert problems(again) == problems(copy_of(writer.db))
        check_virtual(writer.db, again)
    finally:
        writer.db.close()
        reader.db.close()


def check_virtual(one: apsw.Connection, two: apsw.Connection) -> None:
    """MATCH and range queries answer alike."""
    for sql in (
        f"SELECT rowid FROM {FTS} WHERE {FTS} MATCH 'one'",
        f"SELECT rowid, CAST(a AS BLOB), CAST(b AS BLOB) FROM {FTS}"
        f" WHERE {FTS} MATCH 'two OR three'",
        f"SELECT id, x0, x1, CAST(label AS BLOB) FROM {RTREE} WHERE x0 < 3 AND x1 > 1",
    ):
        answers = []
        for db in (one, two):
            try:
                answers.append(repr(sorted(db.execute(sql).fetchall(), key=repr)))
            except apsw.Error as error:
                answers.append(str(error))
        assert answers[0] == answers[1]
