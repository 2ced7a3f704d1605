"""What an undo has to do: from the transactions of the log to the rows as they shall be.

Pure. An undo is not a list of inverse statements but a list of rows, each with its state before
the first transaction that is to be reverted: so it does not matter how often, or in what order,
a row has changed since. docs/spec.md, "History and undo", has the definitions with examples.

The state of a row before a transaction follows from the log: it is what the last earlier
transaction made of it, as far as that came after the state on which the transaction ran
(``base``), else the old values that the transaction itself names. That is why transactions
before the first one to be reverted are looked at too, when others raced with it
(:attr:`Planner.window`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import NamedTuple, TypeAlias

from ha.core.changeset import Change, Operation, SequenceChange
from ha.core.errors import Code, HaError
from ha.core.sqltext import literal
from ha.core.values import Value

MOST_ROWS = 1_000_000
"""Rows that one undo may revert: it is one transaction, and held in memory."""
_MOST_SCHEMA_TEXTS = 100
_EVER = 2**63


class Mode(StrEnum):
    UNDO = "UNDO"  # all changes from n on
    ENTITIES = "UNDOE"  # all changes from n on of the rows that n touched
    TRANSACTIONS = "UNDOT"  # the transactions from n on that touched rows that n touched


@dataclass(frozen=True, slots=True)
class Request:
    """``rows``, by table: the rows meant, instead of all (UNDO) or of those that n touched."""

    mode: Mode
    sequence: int
    rows: Mapping[str, frozenset[int]] | None = None


class ObstacleKind(StrEnum):
    SCHEMA = "schema"  # a table is not what it was
    CHANGED = "changed"  # by others since, which are not to be reverted
    UNIQUE = "unique"  # another row is in the way
    REFERENCE = "reference"  # a foreign key would have no parent
    VIRTUAL = "virtual"  # a virtual table cannot be reverted in part
    UNEXPLAINED = "unexplained"  # the row is not what the log says


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an undo cannot be done cleanly. ``sequence``: of the message in its way, if any."""

    kind: ObstacleKind
    message: str
    table: str = ""
    row: str = ""
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A table as it is now. ``key``: positions of the declared primary key, by ``collations``
    beside them; ``integer_key``: it is the rowid; ``blobs``: positions of columns declared as
    BLOB; ``virtual``: the virtual table that a shadow table belongs to."""

    name: str
    columns: tuple[str, ...]
    key: tuple[int, ...] = ()
    collations: tuple[str, ...] = ()
    integer_key: bool = False
    without_rowid: bool = False
    blobs: tuple[int, ...] = ()
    virtual: str | None = None


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """What a DDL statement of the log did. ``action``: create, drop, alter. ``lossy``: it took
    values away; ``renamed``: the table's new name."""

    action: str
    object: str
    name: str
    text: str
    lossy: bool = False
    renamed: str | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction that counts. ``base`` is None for messages of existing nodes."""

    sequence: int
    changes: Sequence[Change]
    base: int | None = None
    sequences: Sequence[SequenceChange] = ()
    existing: bool = False


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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row to be brought to ``before``. ``after``: what it is now, by the log; ``lost``: only
    if it is missing now; ``loose``: numbers are compared by value, not by type."""

    shape: Shape
    key: Key
    before: Image | None
    after: State
    first: int
    lost: bool = False
    loose: bool = False


@dataclass(slots=True)
class Plan:
    """``sequences``: rows of ``sqlite_sequence`` (None: none); ``schema``: DDL that stays."""

    rows: list[Wanted] = field(default_factory=list)
    sequences: dict[str, int | None] = field(default_factory=dict)
    obstacles: list[Obstacle] = field(default_factory=list)
    transactions: int = 0
    first: int = 0
    last: int = 0
    schema: list[str] = field(default_factory=list)


def fold_name(name: str) -> str:
    """SQLite's rule: only ASCII letters lose their case."""
    return "".join(c.lower() if c.isascii() else c for c in name)


@dataclass(slots=True)
class _Row:
    """``first``: the first transaction to be reverted, 0 while only others touched it."""

    before: State
    after: State
    base: int
    first: int = 0
    other: int | None = None
    loose: bool = False


class _Touch(NamedTuple):
    """What a change did to one row. ``origin``: the key that the row had before."""

    table: str
    key: Key
    before: State
    after: State
    rowids: tuple[int | None, ...]
    origin: Key | None = None


class _Seen(NamedTuple):
    sequence: int
    image: State
    loose: bool


class Planner:
    """Feed it the transactions from ``request.sequence`` on, in order; then ask for the plan.

    ``shape_of`` looks at the database as it is when the undo runs (None: no such table);
    ``read_schema`` tells what an SQL change did (None: nothing that matters here).
    """

    def __init__(
        self,
        request: Request,
        shape_of: Callable[[str], Shape | None],
        read_schema: Callable[[str], SchemaChange | None],
    ) -> None:
        self.request = request
        self.window = request.sequence
        """The first sequence that must be fed to :meth:`feed_window`; may fall with each feed."""
        self.fed = request.sequence - 1
        self._shape_of = shape_of
        self._read_schema = read_schema
        self._whole = request.mode is Mode.UNDO and request.rows is None
        filtered = request.rows or {}
        self._filter = {fold_name(t): rows for t, rows in filtered.items()}
        self._entities: set[tuple[str, Key]] = set()
        self._rows: dict[str, dict[Key, _Row]] = {}
        self._count = 0
        self._created: set[str] = set()
        self._sequences: dict[str, tuple[int | None, int]] = {}
        self._before: dict[str, dict[Key, _Seen]] = {}
        self._before_sequences: dict[str, tuple[int | None, int]] = {}
        self._obstacles: list[Obstacle] = []
        self._virtual: dict[str, int | None] = {}
        self._schema: list[str] = []
        self._transactions = 0
        self._first = 0
        self._last = 0

    # --- the transactions from n on --------------------------------------------------

    def feed(self, tx: Transaction) -> None:
        """Raises HaError (TOO_LARGE) when there are more rows than one undo may have."""
        self.fed = tx.sequence
        base = tx.sequence - 1 if tx.base is None else min(tx.base, tx.sequence - 1)
        self.window = min(self.window, base + 1)
        steps: list[_Touch | SchemaChange] = []
        for change in tx.changes:
            if change.operation is Operation.SQL:
                schema = self._read_schema(change.command)
                if schema is not None:
                    steps.append(schema)
            elif change.operation is not Operation.CUSTOM and change.database == "main":
                steps.extend(self._touches(change, tx.existing))
        touches = [s for s in steps if isinstance(s, _Touch)]
        selected = self._select(tx, touches)
        number = iter(selected)
        for step in steps:
            if isinstance(step, SchemaChange):
                self._change_schema(tx, step)
            else:
                self._touch(tx, base, step, next(number))
        self._note_virtual(tx, touches, selected)
        if self._whole:
            for change_ in tx.sequences:
                self._sequences.setdefault(change_.table, (change_.old, base))
        if any(selected) or (self._whole and steps):
            self._transactions += 1
            self._first = self._first or tx.sequence
            self._last = tx.sequence
        if self._count > MOST_ROWS:
            raise HaError(
                Code.TOO_LARGE,
                f"the undo would revert more than {MOST_ROWS} rows in one transaction",
                hint="restore a backup or a snapshot instead, or name the rows: WHERE table(rowid)",
            )

    def _select(self, tx: Transaction, touches: list[_Touch]) -> list[bool]:
        if self._whole:
            return [True] * len(touches)
        entities = self._entities
        if not self._filter and tx.sequence == self.request.sequence:
            entities.update((t.table, t.key) for t in touches)
        out: list[bool] = []
        for touch in touches:
            wanted = self._filter.get(touch.table)
            meant = wanted is not None and not wanted.isdisjoint(touch.rowids)
            moved = touch.origin is not None and (touch.table, touch.origin) in entities
            if meant or moved:
                entities.add((touch.table, touch.key))
            out.append((touch.table, touch.key) in entities)
        if self.request.mode is Mode.TRANSACTIONS:
            return [any(out)] * len(out)
        return out

    def _touch(self, tx: Transaction, base: int, touch: _Touch, selected: bool) -> None:
        rows = self._rows.setdefault(touch.table, {})
        row = rows.get(touch.key)
        if row is None:
            if not selected and self.request.mode is not Mode.TRANSACTIONS:
                return
            row = rows[touch.key] = _Row(touch.before, touch.after, base)
            row.first = tx.sequence if selected else 0
            self._count += 1
        elif selected and not row.first:
            row.before, row.base, row.first = row.after, _EVER, tx.sequence
        elif not selected and row.first and row.other is None:
            row.other = tx.sequence
        row.after = touch.after
        row.loose = row.loose or tx.existing

    def _note_virtual(self, tx: Transaction, touches: list[_Touch], selected: list[bool]) -> None:
        """A virtual table is reverted as a whole from some transaction on, or not at all."""
        if self._whole:
            return
        reverts = any(selected)
        for touch, chosen in zip(touches, selected, strict=True):
            shape = self._shape_of(touch.table)
            owner = shape.virtual if shape is not None else None
            if owner is None:
                continue
            if reverts:
                self._virtual.setdefault(owner, None)
            if not chosen and owner in self._virtual and self._virtual[owner] is None:
                self._virtual[owner] = tx.sequence

    # --- schema ----------------------------------------------------------------------

    def _change_schema(self, tx: Transaction, change: SchemaChange) -> None:
        if len(self._schema) < _MOST_SCHEMA_TEXTS:
            self._schema.append(change.text)
        if change.object != "table":
            return
        table = fold_name(change.name)
        if change.action == "create":
            self._created.add(table)
        elif change.action == "drop":
            self._drop(tx, change, table)
        else:
            self._alter(tx, change, table)

    def _drop(self, tx: Transaction, change: SchemaChange, table: str) -> None:
        own = table in self._created
        for name in [n for n in self._rows if n == table or self._is_shadow(n, table)]:
            rows = self._rows.pop(name)
            if not own and not self._whole and any(r.first for r in rows.values()):
                self._blocked_by_schema(tx, change)
        self._created.discard(table)
        if not own and self._whole:
            self._blocked_by_schema(tx, change)

    def _is_shadow(self, name: str, table: str) -> bool:
        if not name.startswith(f"{table}_"):
            return False
        shape = self._shape_of(name)
        return shape is None or (shape.virtual is not None and fold_name(shape.virtual) == table)

    def _alter(self, tx: Transaction, change: SchemaChange, table: str) -> None:
        rows = self._rows.get(table, {})
        for row in rows.values():
            row.after = Special.UNKNOWN
        lost = change.lossy and self._whole and table not in self._created
        if lost or any(r.first and r.before is not None for r in rows.values()):
            self._blocked_by_schema(tx, change)
        if change.renamed is not None:
            new = fold_name(change.renamed)
            if table in self._created:
                self._created.discard(table)
                self._created.add(new)
            if rows:
                self._rows[new] = self._rows.pop(table)

    def _blocked_by_schema(self, tx: Transaction, change: SchemaChange) -> None:
        self._obstacles.append(
            Obstacle(
                ObstacleKind.SCHEMA,
                f"the schema changed at {tx.sequence}: {change.text}",
                table=change.name,
                sequence=tx.sequence,
            )
        )

    # --- the transactions before n ---------------------------------------------------

    def restart_window(self) -> None:
        """What was fed to :meth:`feed_window` is forgotten: it is to be fed from further back."""
        self._before.clear()
        self._before_sequences.clear()

    def feed_window(self, tx: Transaction) -> None:
        """A transaction from :attr:`window` on, and before ``request.sequence``; in order."""
        for change in tx.changes:
            if change.operation in (Operation.SQL, Operation.CUSTOM) or change.database != "main":
                continue
            for touch in self._touches(change, tx.existing):
                seen = _Seen(tx.sequence, touch.after, tx.existing)
                self._before.setdefault(touch.table, {})[touch.key] = seen
        for one in tx.sequences:
            self._before_sequences[one.table] = (one.new, tx.sequence)

    # --- rows ------------------------------------------------------------------------

    def _touches(self, change: Change, existing: bool) -> Iterator[_Touch]:
        table = fold_name(change.table)
        shape = self._shape_of(change.table) or Shape(
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
        old_key = _key(shape, change, change.old_rowid, change.old_values, old)
        new_key = _key(shape, change, change.new_rowid, change.new_values, new)
        if change.operation is Operation.INSERT:
            yield _Touch(table, new_key, None, new, rowids[1:])
        elif change.operation is Operation.DELETE:
            yield _Touch(table, old_key, old, None, rowids[:1])
        elif change.old_values is None:
            yield _Touch(table, new_key, Special.UNKNOWN, new, rowids)
        elif old_key == new_key:
            yield _Touch(table, old_key, old, new, rowids)
        else:
            yield _Touch(table, old_key, old, None, rowids)
            yield _Touch(table, new_key, None, new, rowids, origin=old_key)

    # --- the plan --------------------------------------------------------------------

    def plan(self) -> Plan:
        """What to do, as far as the log tells."""
        out = Plan(
            obstacles=list(self._obstacles),
            transactions=self._transactions,
            first=self._first,
            last=self._last,
            schema=list(self._schema),
        )
        for table, rows in self._rows.items():
            self._plan_table(out, table, rows)
        if self._whole:
            self._plan_lost(out)
            for name, (old, base) in self._sequences.items():
                earlier = self._before_sequences.get(name)
                out.sequences[name] = earlier[0] if earlier and earlier[1] > base else old
        for owner, sequence in self._virtual.items():
            if sequence is not None:
                out.obstacles.append(
                    Obstacle(
                        ObstacleKind.VIRTUAL,
                        f"the virtual table {owner} can only be reverted with all that changed it,"
                        f" and the transaction at {sequence} would stay: use UNDO",
                        table=owner,
                        sequence=sequence,
                    )
                )
        return out

    def _plan_table(self, out: Plan, table: str, rows: dict[Key, _Row]) -> None:
        shape = self._shape_of(table)
        earlier = self._before.get(table, {})
        for key, row in rows.items():
            if not row.first:
                continue
            if shape is None:
                out.obstacles.append(
                    Obstacle(
                        ObstacleKind.SCHEMA, f"there is no table {table}", table, sequence=row.first
                    )
                )
                return
            before, loose = row.before, row.loose
            seen = earlier.get(key)
            if seen is not None and seen.sequence > row.base:
                before, loose = seen.image, loose or seen.loose
            if row.other is not None:
                out.obstacles.append(
                    Obstacle(
                        ObstacleKind.CHANGED,
                        f"row {describe(key)} of {shape.name} was changed again at {row.other},"
                        " by a transaction that is not to be reverted",
                        shape.name,
                        describe(key),
                        row.other,
                    )
                )
            elif isinstance(before, Special):
                out.obstacles.append(
                    Obstacle(
                        ObstacleKind.SCHEMA,
                        f"{shape.name} had other columns when row {describe(key)} changed"
                        f" at {row.first}",
                        shape.name,
                        describe(key),
                        row.first,
                    )
                )
            else:
                out.rows.append(Wanted(shape, key, before, row.after, row.first, loose=loose))

    def _plan_lost(self, out: Plan) -> None:
        """Rows from just before n that no message removed, but a race may have: an INSERT or
        UPDATE that did not see them, and clashed."""
        for table, seen_rows in self._before.items():
            shape = self._shape_of(table)
            rows = self._rows.get(table, {})
            if shape is None or table in self._created:
                continue
            for key, seen in seen_rows.items():
                if key not in rows and isinstance(seen.image, Image):
                    out.rows.append(
                        Wanted(shape, key, seen.image, seen.image, 0, lost=True, loose=seen.loose)
                    )


def describe(key: Key) -> str:
    """A row for people: ``7``, ``'a'``, ``('a', 2)``."""
    parts = [literal(value) for value in key[1:]]  # type: ignore[arg-type]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def same_row(a: tuple[Value, ...], b: tuple[Value, ...], loose: bool) -> bool:
    """Equal value by value, in type too unless ``loose``: existing nodes write 1.0 as 1."""
    return a == b and (loose or all(type(x) is type(y) for x, y in zip(a, b, strict=True)))


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
    shape: Shape, change: Change, rowid: int | None, values: tuple[Value, ...] | None, state: State
) -> Key:
    """As the fold identifies a row: by its declared primary key, else by its rowid."""
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
