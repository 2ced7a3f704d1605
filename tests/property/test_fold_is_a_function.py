"""The fold of rows and SQL: a function of state and messages, that no race of valid transactions
makes fail.

Nodes start alike and write without seeing each other; their messages are put into one order and
applied by readers that group, restart and repeat nothing alike. All must come to the same
database, without an error, and sound.
"""

from __future__ import annotations

import os

import apsw
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from ha.core.changeset import ChangeSet, Identify, decode, encode
from ha.core.errors import HaError
from ha.store.apply import Applied, Applier
from ha.store.parse import CONTROL_TABLES
from tests.support.dump import dump, problems
from tests.support.law import Reader, Writer, copy_of, message
from tests.support.statements import ddl, dml, openings, others

EXAMPLES = int(os.environ.get("HA_EXAMPLES", "300"))

transactions = st.lists(st.one_of(dml, dml, dml, ddl, others()), min_size=1, max_size=4)
node_work = st.lists(transactions, min_size=1, max_size=4)


def write(writer: Writer, transaction: list[str]) -> ChangeSet | None:
    try:
        captured = writer.transaction(*transaction, errors=True)
    except (HaError, apsw.ConstraintError):  # a deferred foreign key at COMMIT
        return None
    return None if captured is None else decode(encode(message(captured)))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    opening=openings(),
    filling=st.lists(dml, max_size=6),
    nodes=st.lists(node_work, min_size=2, max_size=3),
    shuffle=st.randoms(use_true_random=False),
    identify=st.sampled_from(list(Identify)),
    group=st.integers(1, 4),
)
def test_all_readers_come_to_the_same_database(
    opening: list[str],
    filling: list[str],
    nodes: list[list[list[str]]],
    shuffle: object,
    identify: Identify,
    group: int,
) -> None:
    base = Writer()
    base.transaction(*opening, errors=True)
    write(base, filling)
    queues: list[list[ChangeSet]] = []
    for work in nodes:
        writer = Writer(copy_of(base.db))
        sent = [write(writer, transaction) for transaction in work]
        queues.append([m for m in sent if m is not None])
    log: list[ChangeSet] = []
    while any(queues):
        queue = shuffle.choice([q for q in queues if q])  # type: ignore[attr-defined]
        log.append(queue.pop(0))
    one, two = Reader(copy_of(base.db)), copy_of(base.db)
    outcomes: list[Applied] = []
    for m in log:
        for change in m.changes:
            note(f"   {change}")
        before = dump(one.db)
        outcomes.append(one.apply(m, identify))
        note(f"{outcomes[-1]}")
        if not outcomes[-1].applied:
            assert dump(one.db) == before
    for start in range(0, len(log), group):
        applier = Applier(two, CONTROL_TABLES)
        two.execute("BEGIN")
        for i in range(start, min(start + group, len(log))):
            assert applier.apply(log[i], identify) == outcomes[i]
        two.execute("COMMIT")
    assert dump(one.db) == dump(two)
    assert problems(one.db) == problems(base.db) == []
    for db in (base.db, one.db, two):
        db.close()
