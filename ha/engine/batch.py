"""Executing a batch: many transactions in one SQLite transaction, each in its savepoint."""

from __future__ import annotations

from ha.core.errors import Code, HaError
from ha.engine.statements import to_result
from ha.engine.unit import Unit
from ha.store.executor import Executor, TransactionLost


def run_batch(executor: Executor, units: list[Unit]) -> None:
    """Run all units' statements; each ends with results and ``captured``, or with an error.

    The SQLite transaction is left open. A unit that ends the whole SQLite transaction costs
    only itself: the others are run again from the start, and nobody learns of it. Raises
    OverBudget (everything is to be run again) and HaError when no transaction can be begun.
    """
    for unit in units:
        unit.clear()
    while True:
        connection = executor.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for unit in units:
                if unit.error is None:
                    executor.current = unit
                    _run_unit(executor, unit)
            return
        except TransactionLost as lost:
            culprit = executor.current
            assert isinstance(culprit, Unit)
            culprit.captured = None
            culprit.error = lost.error
            culprit.final = True
            if connection.abandoned:
                raise HaError(Code.UNAVAILABLE, "the node is stopping") from lost
            connection.cancelled = False
            for unit in units:
                if not unit.final:
                    unit.results = []
                    unit.error = None
                    unit.captured = None
        except BaseException:
            executor.discard()
            connection.rollback()
            raise
        finally:
            executor.current = None


def _run_unit(executor: Executor, unit: Unit) -> None:
    connection = executor.connection
    connection.execute("SAVEPOINT ha_unit")
    executor.start()
    executor.impersonate(unit.last_insert_id, unit.changes)
    try:
        if unit.work is not None:
            unit.results = unit.work(executor)
        for statement in unit.statements:
            connection.spend()
            parsed = unit.parse(connection, statement.sql)
            unit.results.append(
                to_result(parsed, executor.run(parsed, statement.params, unit.max_rows))
            )
        unit.captured = executor.finish()
        unit.last_insert_id = connection.raw.last_insert_rowid()
        unit.changes = executor.changes
    except TransactionLost:
        executor.discard()
        raise
    except HaError as error:
        executor.discard()
        unit.error = error
        unit.captured = None
        connection.execute("ROLLBACK TO ha_unit")
    connection.execute("RELEASE ha_unit")
