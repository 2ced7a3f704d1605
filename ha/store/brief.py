"""Which statements are short, whatever the tables hold.

A write inside of an interactive transaction cannot be interrupted when it turns out to be long:
SQLite would roll back the whole transaction. So only what is certain to be short runs on the
event loop: statements whose program for SQLite's virtual machine has no loop, which change a row
by its key or insert one. Source: SQLite documentation, "The SQLite Bytecode Engine".
"""

from __future__ import annotations

from typing import Any

import apsw

_JUMPS = frozenset(
    {
        "DecrJumpZero", "ElseEq", "Eq", "Filter", "Found", "Ge", "Goto", "Gt", "IdxGE", "IdxGT",
        "IdxLE", "IdxLT", "If", "IfEmpty", "IfNoHope", "IfNot", "IfNotOpen", "IfNotZero",
        "IfNullRow", "IfPos", "IfSizeBetween", "IsNull", "IsType", "Jump", "Last", "Le", "Lt",
        "Ne", "Next", "NoConflict", "NotExists", "NotFound", "NotNull", "Once", "Prev", "Rewind",
        "RowSetRead", "RowSetTest", "SeekGE", "SeekGT", "SeekLE", "SeekLT", "SeekRowid",
        "SeekScan", "Sort", "SorterNext", "SorterSort", "VFilter", "VNext",
    }
)  # fmt: skip
"""Operations whose second operand is where to go on: a loop is closed by one that goes back."""

_LONG = frozenset(
    {
        "Clear", "Count", "Destroy", "Gosub", "InitCoroutine", "IntegrityCk", "Program",
        "SqlExec", "VFilter", "VOpen", "VUpdate", "Yield",
    }
)  # fmt: skip
"""Whole tables, subroutines, triggers and virtual tables."""


def is_brief(connection: apsw.Connection, sql: str, parameters: int) -> bool:
    """Is ``sql``, one that changes rows, short for every content of the database?

    It holds as long as the schema is the same. False when in doubt.
    """
    try:
        cursor = connection.cursor()
        nulls = (None,) * parameters
        program: list[Any] = cursor.execute("EXPLAIN " + sql, nulls, can_cache=False).fetchall()
    except (apsw.Error, UnicodeDecodeError):  # bytes in the statement
        return False
    made = {step[2] for step in program if step[1] == "OpenEphemeral"}
    returning = False
    for address, operation, first, second, *_ in program:
        if operation in _LONG:
            return False
        if operation in _JUMPS and second <= address:
            if operation == "Goto" and second == 1:
                continue  # from the preparations, which stand at the end, to the beginning
            if operation != "Next" or first not in made or returning:
                return False
            returning = True  # over what it has changed: one row, as there is no other loop
    return True
