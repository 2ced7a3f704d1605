"""What an undo has to do: from the transactions of the log to the rows as they shall be.

Pure. An undo is not a list of inverse statements but a list of rows, each with its state before
the first transaction that is to be reverted: so it does not matter how often, or in what order,
a row has changed since. docs/spec.md, "History and undo", has the definitions with examples.

The state of a row before a transaction follows from the log: it is what the last earlier
transaction made of it, as far as that came after the state on which the transaction ran
(``base``), else the old values that the transaction itself names. That is why transactions
before the first one to be reverted are looked at too, when others raced with it
(:attr:`Planner.window`). What cannot be known from the log at all is an obstacle
(:mod:`ha.core.strays`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ha.core.changeset import Operation
from ha.core.errors import Code, HaError
from ha.core.sqltext import literal
from ha.core.strays import Strays
from ha.core.touches import (
    Image,
    Key,
    Shape,
    Special,
    State,
    Touch,
    Transaction,
    fold_name,
    touches_of,
)
from ha.core.window import EVER, Seen, Window

MOST_ROWS = 1_000_000
"""Rows that one undo may revert: it is one transaction, and held in memory."""
_MOST_SCHEMA_TEXTS = 100


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
    UNEXPLAINED = "unexplained"  # the row is not what the log says, or that says too little


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an undo cannot be done cleanly. ``sequence``: of the message in its way, if any."""

    kind: ObstacleKind
    message: str
    table: str = ""
    row: str = ""
    sequence: int | None = None


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


@dataclass(slots=True)
class _Row:
    """``first``: the first transaction to be reverted, 0 while only others touched it."""

    before: State
    after: State
    base: int
    first: int = 0
    other: int | None = None
    loose: bool = False


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
        self._obstacles: list[Obstacle] = []
        self._strays = Strays(request.sequence)
        self._earlier: Window | None = None
        self._virtual: dict[str, int | None] = {}
        self._schema: list[str] = []
        self._transactions = 0
        self._first = 0
        self._last = 0

    # --- the transactions from n on --------------------------------------------------

    def feed(self, tx: Transaction) -> None:
        """Raises HaError (TOO_LARGE) when there are more rows than one undo may have."""
        self.fed = tx.sequence
        base = tx.saw
        self.window = min(self.window, base + 1)
        steps: list[Touch | SchemaChange] = []
        for change in tx.changes:
            if change.operation is Operation.SQL:
                schema = self._read_schema(change.command)
                if schema is not None:
                    steps.append(schema)
            elif change.operation is not Operation.CUSTOM and change.database == "main":
                steps.extend(touches_of(tx, change, self._shape_of(change.table)))
        touches = [s for s in steps if isinstance(s, Touch)]
        self._strays.feed(tx, touches)
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

    def _select(self, tx: Transaction, touches: list[Touch]) -> list[bool]:
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

    def _touch(self, tx: Transaction, base: int, touch: Touch, selected: bool) -> None:
        rows = self._rows.setdefault(touch.table, {})
        row = rows.get(touch.key)
        if row is None:
            if not selected and self.request.mode is not Mode.TRANSACTIONS:
                return
            row = rows[touch.key] = _Row(touch.before, touch.after, base)
            row.first = tx.sequence if selected else 0
            self._count += 1
        elif selected and not row.first:
            row.before, row.base, row.first = row.after, EVER, tx.sequence
        elif not selected and row.first and row.other is None:
            row.other = tx.sequence
        row.after = touch.after
        row.loose = row.loose or tx.existing

    def _note_virtual(self, tx: Transaction, touches: list[Touch], selected: list[bool]) -> None:
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

    def feed_window(self, tx: Transaction) -> None:
        """A transaction from :attr:`window` on, and before ``request.sequence``; in order."""
        if self._earlier is None:
            self._earlier = Window(self.window)
        self._earlier.feed(tx, self._row_touches(tx))

    @property
    def outlook(self) -> int:
        """When the window has been fed: the first sequence that must be fed to
        :meth:`feed_outlook`."""
        return self.window if self._earlier is None else self._earlier.outlook

    def feed_outlook(self, tx: Transaction) -> None:
        """A transaction from :attr:`outlook` on, and before :attr:`window`; in order."""
        assert self._earlier is not None
        self._earlier.look_back(tx, self._row_touches(tx))

    def _row_touches(self, tx: Transaction) -> list[Touch]:
        return [
            touch
            for change in tx.changes
            if change.operation not in (Operation.SQL, Operation.CUSTOM)
            and change.database == "main"
            for touch in touches_of(tx, change, self._shape_of(change.table))
        ]

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
        self._find_strays(out)
        for table, rows in self._rows.items():
            self._plan_table(out, table, rows)
        if self._whole:
            self._plan_lost(out)
            out.sequences = (self._earlier or Window(self.window)).sequences(self._sequences)
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

    def _find_strays(self, out: Plan) -> None:
        if self._earlier is not None:
            self._strays.resolve(self._earlier.close())
        for table, sequence in self._strays.tables.items():
            rows = self._rows.get(table, {})
            if self._whole or any(row.first for row in rows.values()):
                out.obstacles.append(
                    Obstacle(
                        ObstacleKind.UNEXPLAINED,
                        f"the transaction at {sequence} named rows of {table} by all their values"
                        " while others changed them, so that the log does not tell what it did",
                        table=table,
                        sequence=sequence,
                    )
                )

    def _plan_table(self, out: Plan, table: str, rows: dict[Key, _Row]) -> None:
        shape = self._shape_of(table)
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
            before, loose = self._state_before(shape, table, key, row)
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
            elif isinstance(before, Special) and not isinstance(row.before, Special):
                out.obstacles.append(_untold(shape, key, row.first))
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

    def _state_before(self, shape: Shape, table: str, key: Key, row: _Row) -> tuple[State, bool]:
        """What the row was just before n, or before the first transaction to be reverted."""
        window = self._earlier
        if window is None or row.base == EVER:
            return row.before, row.loose
        at = Seen(row.base, row.before, row.loose)
        seen = window.last.get(table, {}).get(key)
        if seen is not None and (
            seen.sequence > row.base
            # It had vanished from n on, by a clash with a row of a transaction that raced.
            or (row.before is None and row.base >= self.request.sequence)
        ):
            at = seen
        return window.survived(shape, table, key, at), row.loose or at.loose

    def _plan_lost(self, out: Plan) -> None:
        """Rows from just before n that no message removed, but a race may have: an INSERT or
        UPDATE that did not see them, and clashed."""
        if self._earlier is None:
            return
        for table, seen_rows in self._earlier.last.items():
            shape = self._shape_of(table)
            rows = self._rows.get(table, {})
            if shape is None or table in self._created:
                continue
            for key, seen in seen_rows.items():
                if key in rows:
                    continue
                image = self._earlier.survived(shape, table, key, seen)
                if isinstance(image, Special) and isinstance(seen.image, Image):
                    out.obstacles.append(_untold(shape, key, seen.sequence))
                elif isinstance(image, Image):
                    out.rows.append(
                        Wanted(shape, key, image, image, 0, lost=True, loose=seen.loose)
                    )


def _untold(shape: Shape, key: Key, sequence: int) -> Obstacle:
    return Obstacle(
        ObstacleKind.UNEXPLAINED,
        f"a race may have removed row {describe(key)} of {shape.name} after {sequence}: a UNIQUE"
        " index with an expression or a WHERE does not tell",
        shape.name,
        describe(key),
        sequence,
    )


def describe(key: Key) -> str:
    """A row for people: ``7``, ``'a'``, ``('a', 2)``."""
    parts = [literal(value) for value in key[1:]]  # type: ignore[arg-type]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
