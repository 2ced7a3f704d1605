"""What the changes of a transaction did to rows, as their message tells it. Pure.

A row is known by its key, as the fold identifies it, and has a state before and after.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from ha.core.changeset import Change, Identify, Operation, SequenceChange
from ha.core.values import Value


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction that counts. ``base`` is None for messages of existing nodes; ``identify``:
    how its message names rows."""

    sequence: int
    changes: Sequence[Change]
    base: int | None = None
    sequences: Sequence[SequenceChange] = ()
    existing: bool = False
    identify: Identify = Identify.PK

    @property
    def saw(self) -> int:
        """The position on which it ran, as far as it tells."""
        before = self.sequence - 1
        return before if self.base is None else min(self.base, before)


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as it is now. ``key``: positions of the declared primary key, by ``collations``
    beside them; ``integer_key``: it is the rowid; ``blobs``: positions of columns declared as
    BLOB; ``virtual``: the virtual table that a shadow table belongs to. ``unique``: the UNIQUE
    indexes, each as positions of columns with their collations; None if one has an expression, a
    WHERE or a collation that is not SQLite's own."""

    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...] = ()
    collations: tuple[str, ...] = ()
    integer_key: bool = False
    without_rowid: bool = False
    blobs: tuple[int, ...] = ()
    virtual: str | None = None
    unique: tuple[tuple[tuple[int, str], ...], ...] | None = ()


class Image(NamedTuple):
    """A row: its rowid (None: WITHOUT ROWID) and its values, in the shape's order."""

    rowid: int | None
    values: tuple[Value, ...]


class Special(Enum):
    UNKNOWN = auto()  # of another shape than the table has now, or not told by the message


State: TypeAlias = Image | Special | None
"""None: there is no such row."""
Key: TypeAlias = tuple[object, ...]
"""``("k", values…)`` of the declared primary key, else ``("r", rowid)``."""


class Touch(NamedTuple):
    """What a change did to one row. ``origin``: the key that the row had before."""

    table: str
    key: Key
    before: State
    after: State
    rowids: tuple[int | None, ...]
    origin: Key | None = None


def fold_name(name: str) -> str:
    """SQLite's rule: only ASCII letters lose their case."""
    return "".join(c.lower() if c.isascii() else c for c in name)


def touches_of(tx: Transaction, change: Change, shape: Shape | None) -> Iterator[Touch]:
    """What a change of rows did, in the order in which it did it."""
    existing = tx.existing
    table = fold_name(change.table)
    shape = shape or Shape(
        change.table,
        change.columns,
        tuple(i for i, c in enumerate(change.columns) if c in change.pk_columns),
        ("BINARY",) * len(change.pk_columns),
    )
    rowids = (change.old_rowid, change.new_rowid)
    old = _state(shape, change, change.old_rowid, change.old_values, existing)
    new = _state(shape, change, change.new_rowid, change.new_values, existing)
    if shape.without_rowid:
        rowids = (_only_integer(shape, old), _only_integer(shape, new))
    by_key = tx.identify is Identify.PK or shape.without_rowid
    old_key = _key(shape, change, change.old_rowid, change.old_values, old, by_key)
    new_key = _key(shape, change, change.new_rowid, change.new_values, new, by_key)
    if change.operation is Operation.INSERT:
        yield Touch(table, new_key, None, new, rowids[1:])
    elif change.operation is Operation.DELETE:
        yield Touch(table, old_key, old, None, rowids[:1])
    elif change.old_values is None:
        yield Touch(table, new_key, Special.UNKNOWN, new, rowids)
    elif old_key == new_key:
        yield Touch(table, old_key, old, new, rowids)
    else:
        yield Touch(table, old_key, old, None, rowids)
        yield Touch(table, new_key, None, new, rowids, origin=old_key)


def same_row(a: tuple[Value, ...], b: tuple[Value, ...], loose: bool) -> bool:
    """Equal value by value, in type too unless ``loose``: existing nodes write 1.0 as 1."""
    return a == b and (loose or all(type(x) is type(y) for x, y in zip(a, b, strict=True)))


def same_in(index: Sequence[tuple[int, str]], a: Image, b: Image) -> bool:
    """Would a UNIQUE index of :attr:`Shape.unique` take only one of them?"""
    return all(
        a.values[i] is not None and _collated(a.values[i], c) == _collated(b.values[i], c)
        for i, c in index
    )


def _state(
    shape: Shape,
    change: Change,
    rowid: int | None,
    values: tuple[Value, ...] | None,
    existing: bool,
) -> State:
    if values is None or len(change.columns) != len(shape.columns):
        return Special.UNKNOWN
    if change.columns != shape.columns:
        at = {fold_name(c): v for c, v in zip(change.columns, values, strict=True)}
        try:
            values = tuple(at[fold_name(c)] for c in shape.columns)
        except KeyError:
            return Special.UNKNOWN
    if existing and shape.blobs:
        values = tuple(_as_blob(v) if i in shape.blobs else v for i, v in enumerate(values))
    if shape.without_rowid:
        rowid = None
    elif rowid is None and shape.integer_key:
        value = values[shape.key[0]]
        rowid = value if isinstance(value, int) else None
    return Image(rowid, values)


def _as_blob(value: Value) -> Value:
    """BLOBs of existing nodes are base64 strings."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return value
    return value


def _key(
    shape: Shape,
    change: Change,
    rowid: int | None,
    values: tuple[Value, ...] | None,
    state: State,
    by_key: bool,
) -> Key:
    """As the fold identifies a row: by its declared primary key, else by its rowid."""
    if not by_key and not shape.integer_key and rowid is not None:
        return ("r", rowid)
    if isinstance(state, Image) and shape.key:
        key = tuple(state.values[i] for i in shape.key)
        if None not in key:
            return ("k", *map(_collated, key, shape.collations))
    elif shape.key and values is not None:
        at = {fold_name(c): v for c, v in zip(change.columns, values, strict=True)}
        names = [fold_name(shape.columns[i]) for i in shape.key]
        if all(at.get(n) is not None for n in names):
            return ("k", *map(_collated, (at[n] for n in names), shape.collations))
    if shape.integer_key and rowid is not None:
        return ("k", rowid)
    if rowid is None and isinstance(state, Image):
        return ("v", *state.values)
    return ("r", rowid)


def _collated(value: Value, collation: str) -> Value:
    """Values that SQLite's own collations hold equal become one."""
    if isinstance(value, str):
        if collation.upper() == "NOCASE":
            return fold_name(value)
        if collation.upper() == "RTRIM":
            return value.rstrip(" ")
    return value


def _only_integer(shape: Shape, state: State) -> int | None:
    """A table WITHOUT ROWID whose key is one integer is filtered by it."""
    if isinstance(state, Image) and len(shape.key) == 1:
        value = state.values[shape.key[0]]
        return value if isinstance(value, int) else None
    return None
