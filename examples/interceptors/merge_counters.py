"""Add up increments of ``counters(name PRIMARY KEY, value)`` that several nodes made at once.

Last writer wins would keep one of two increments. Here an UPDATE adds what its own transaction
added (new value less old value) to the value that the row has by then.

Use it on every node: ``ha --interceptor merge_counters.py``.
"""

from dataclasses import replace

from ha.core.changeset import Operation

TABLE = "counters"


def before_apply(changeset, connection):
    for index, change in enumerate(changeset.changes):
        if change.operation is not Operation.UPDATE or change.table != TABLE:
            continue
        name = change.columns.index("name")
        value = change.columns.index("value")
        for (current,) in connection.execute(
            f"SELECT value FROM {TABLE} WHERE name = ?", (change.old_values[name],)
        ):
            merged = list(change.new_values)
            merged[value] = current + change.new_values[value] - change.old_values[value]
            changeset.changes[index] = replace(change, new_values=tuple(merged))
