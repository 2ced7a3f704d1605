"""The rows of an outbox, when its database gets another file."""

from __future__ import annotations

from contextlib import closing

import apsw

from ha.core.changeset import Change, ChangeSet, Operation, Origin, decode, encode
from ha.store import control
from ha.store.apply import Applier
from ha.store.file import Store, StoreOptions
from ha.store.outbox import Outbox, messages_of
from ha.store.parse import CONTROL_TABLES


def waiting(number: int) -> ChangeSet:
    insert = Change(
        Operation.INSERT, "t", ("id", "x"), ("id",), None, number, None, (number, "mine")
    )
    origin = Origin("n1", 7, number)
    after = number - 1 if number > 1 else None
    return ChangeSet("n1", 7, "ha.db", (insert,), origin=origin, after=after)


def test_what_stands_in_the_log_where_it_does_not_count_waits_on() -> None:
    former = Store.open_memory("former.db", StoreOptions())
    file = Store.open_memory("ha.db", StoreOptions())
    try:
        for store in (former, file):
            control.ensure(store.executor, "s.ha_db")
            store.executor.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        outbox = Outbox(former.executor)
        for number in (1, 2, 3, 4):
            cs = waiting(number)
            assert cs.origin is not None
            outbox.add(former.executor, messages_of(cs.origin, [encode(cs)]))
        rows = outbox.all_rows(former.executor)
        # The new file has met 1, which counted, and 3, which did not: 2 was lost before it.
        control.set_origin_seen(file.executor, "n1", 7, 3, 1)
        file.executor.execute("INSERT INTO t VALUES (1, 'mine')")
        outbox = Outbox(file.applier)
        misplaced = outbox.put_back(file.applier, rows, Applier(file.applier.raw, CONTROL_TABLES))
        kept = [decode(w.message.payload).origin for w in outbox.after(file.applier, 0, 10)]
        assert kept == [Origin("n1", 7, number) for number in (2, 3, 4)]
        assert misplaced
        assert file.applier.raw.execute("SELECT id FROM t ORDER BY id").fetchall() == [
            (1,), (2,), (3,), (4,),
        ]  # fmt: skip
    finally:
        former.close()
        file.close()


def test_a_copy_holds_nothing_of_what_waits() -> None:
    """What is left of it would be taken for the copy's own when numbers come again."""
    file = Store.open_memory("ha.db", StoreOptions())
    try:
        control.ensure(file.executor, "s.ha_db")
        file.executor.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        outbox = Outbox(file.applier)
        cs = waiting(1)
        assert cs.origin is not None
        outbox.add(file.applier, messages_of(cs.origin, [encode(cs)]))
        outbox.redo(file.applier, Applier(file.applier.raw, CONTROL_TABLES))
        copy = file.copy()
        with closing(apsw.Connection(copy.path)) as found:
            for table in ("t", "ha_outbox", "ha_redone"):
                assert found.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)], table
        copy.remove()
        assert file.executor.execute("SELECT count(*) FROM ha_redone") == 1
    finally:
        file.close()
