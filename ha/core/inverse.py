"""Taking a transaction back: its changes the other way round, last first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ha.core.changeset import Change, Operation, SequenceChange

_INVERSE = {
    Operation.INSERT: Operation.DELETE,
    Operation.DELETE: Operation.INSERT,
    Operation.UPDATE: Operation.UPDATE,
}


def inverse_change(change: Change) -> Change:
    """The row change that takes ``change`` back. Raises ValueError for SQL, which has none."""
    operation = _INVERSE.get(change.operation)
    if operation is None:
        raise ValueError(f"{change.operation} has no inverse")
    return Change(
        operation=operation,
        table=change.table,
        columns=change.columns,
        pk_columns=change.pk_columns,
        old_rowid=change.new_rowid,
        new_rowid=change.old_rowid,
        old_values=change.new_values,
        new_values=change.old_values,
        database=change.database,
    )


def inverse_changes(changes: Sequence[Change]) -> Iterator[Change]:
    """Last first."""
    return (inverse_change(change) for change in reversed(changes))


def inverse_sequences(sequences: Iterable[SequenceChange]) -> tuple[SequenceChange, ...]:
    return tuple(SequenceChange(s.table, s.new, s.old) for s in sequences)
