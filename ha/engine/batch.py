"""Executing a batch: many transactions in one SQLite transaction."""

from __future__ import annotations

import apsw

from ha.core.errors import Code, HaError
from ha.engine.api import Result
from ha.engine.statements import kind_of, to_result
from ha.engine.unit import Unit
from ha.store.executor import Executor, TransactionLost
from ha.store.parse import Parsed


def run_batch(executor: Executor, units: list[Unit]) -> None:
    """Run all units' statements; each ends with results and ``captured``, or with an error.

    The SQLite transaction is left open. A unit that ends the whole SQLite transaction, or that
    cannot be taken back alone, costs only itself: the others are run again from the start, and
    nobody learns of it. Raises OverBudget (everything is to be run again) and HaError when no
    transaction can be begun.
    """
    for unit in units:
        unit.clear()
    connection = executor.connection
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for unit in units:
                if unit.error is None:
                    executor.current = unit
                    _run_unit(executor, unit)
            return
        except TransactionLost as lost:
            connection.rollback()
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
        except BaseException as error:
            executor.discard()
            connection.rollback()
            if isinstance(error, apsw.Error):
                # In BEGIN, SAVEPOINT or RELEASE: ours, and no statement of a client.
                raise connection.translated(error) from error
            raise
        finally:
            executor.current = None


def _run_unit(executor: Executor, unit: Unit) -> None:
    connection = executor.connection
    if unit.work is None and len(unit.statements) == 1:
        try:
            parsed = unit.parse(connection, unit.statements[0].sql)
        except HaError as error:
            executor.require_transaction(error)
            unit.error = error
            return
        executor.start()
        if parsed.dml and not executor.has_virtual_tables:
            _run_single(executor, unit, parsed)
            return
    connection.execute("SAVEPOINT ha_unit")
    executor.start()
    executor.impersonate(unit.last_insert_id, unit.changes)
    try:
        if unit.work is not None:
            unit.results = unit.work(executor)
        _run_statements(executor, unit)
        _finish(executor, unit)
    except TransactionLost:
        executor.discard()
        raise
    except HaError as error:
        executor.discard()
        unit.error = error
        unit.captured = None
        # Else the next savepoint would be a transaction of its own, and its release a commit.
        executor.require_transaction(error)
        connection.execute("ROLLBACK TO ha_unit")
    connection.execute("RELEASE ha_unit")


def _run_statements(executor: Executor, unit: Unit) -> None:
    connection = executor.connection
    statements, results = unit.statements, unit.results
    count = len(statements)
    try:
        while (start := len(results)) < count:
            connection.spend()
            first = statements[start]
            parsed = unit.parse(connection, first.sql)
            if not parsed.dml or parsed.columns:
                ran = executor.run(parsed, first.params, unit.max_rows)
                results.append(to_result(parsed, ran))
                continue
            # The same text means the same as long as only rows change.
            stop = start + 1
            while stop < count and statements[stop].sql == first.sql:
                stop += 1
            kind = kind_of(parsed)
            parameters = [s.params for s in statements[start:stop]]
            for changes, last_id in executor.run_many(parsed, parameters):
                results.append(Result(kind, parsed.verb, (), [], changes, last_id))
    except HaError as error:
        if count > 1 and error.detail is None:
            error.detail = f"statement {len(results) + 1} of {count}"
        raise


def _run_single(executor: Executor, unit: Unit, parsed: Parsed) -> None:
    """One statement that changes rows is a savepoint of its own: SQLite undoes it if it fails.

    But not after ON CONFLICT FAIL, nor if it breaks a rule at the end of the transaction.
    """
    connection = executor.connection
    executor.impersonate(unit.last_insert_id, unit.changes)
    before = connection.raw.total_changes()
    try:
        connection.spend()
        ran = executor.run(parsed, unit.statements[0].params, unit.max_rows)
        unit.results.append(to_result(parsed, ran))
        _finish(executor, unit)
    except TransactionLost:
        executor.discard()
        raise
    except HaError as error:
        executor.discard()
        executor.require_transaction(error)
        if connection.raw.total_changes() != before:
            raise TransactionLost(error) from error
        unit.error = error
        unit.captured = None
        unit.results = []


def _finish(executor: Executor, unit: Unit) -> None:
    unit.captured = executor.finish()
    unit.last_insert_id = executor.connection.raw.last_insert_rowid()
    unit.changes = executor.changes
