"""One SQLite connection with what this product needs of it: a budget, cancellation, parsing.

A statement runs on the event loop while it is short, and again on a worker thread when it is
not. Its length is counted in steps of SQLite's virtual machine, not in seconds, so that the
same statement takes the same way on every run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import apsw

from ha.core.errors import Code, HaError
from ha.core.values import RawText, Value
from ha.store.parse import Collector, Parsed, parse
from ha.store.sqlite_errors import from_sqlite

STEPS_PER_TICK = 1_000
INLINE_TICKS = 150
"""Ticks that a statement may take on the event loop: a few milliseconds."""


_NORMAL = 1
"""What ``PRAGMA synchronous`` answers for NORMAL: a commit is written, and synced later."""


class OverBudget(Exception):
    """The work is too long for the event loop: roll back, and run it again on a thread."""


class Connection:
    """Owned by one task or thread at a time.

    ``raw`` is APSW's connection. ``ticks`` is the budget that is left, None for no limit.
    ``abandoned``: whoever waited for the work is gone; do not start it again.
    """

    def __init__(self, raw: apsw.Connection) -> None:
        self.raw = raw
        self.ticks: int | None = None
        self.cancelled = False
        self.abandoned = False
        self.generation = 0
        """Of the file that it was opened on: see :class:`ha.store.file.Store`."""
        self.session_changes = 0
        """What ``changes()`` answers to a session that runs no write on this connection."""
        self._over = False
        self._undisturbed = False
        self._collector = Collector()
        raw.authorizer = self._collector
        raw.set_progress_handler(self._tick, STEPS_PER_TICK)
        raw.create_scalar_function("changes", lambda *_: self.session_changes, 0)
        self.cursor = raw.cursor()

    def _tick(self) -> bool:
        if self._undisturbed:
            return False
        if self.cancelled:
            return True
        if self.ticks is not None:
            self.ticks -= 1
            if self.ticks < 0:
                self._over = True
                return True
        return False

    def spend(self, ticks: int = 1) -> None:
        """Account for work outside of SQLite's virtual machine. Raises OverBudget."""
        if self.cancelled:
            raise HaError(Code.CANCELLED, "the statement was cancelled")
        if self.ticks is not None:
            self.ticks -= ticks
            if self.ticks < 0:
                raise OverBudget

    def parse(self, sql: str) -> Parsed:
        """See :func:`ha.store.parse.parse`."""
        return parse(self.raw, self._collector, sql)

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run internal SQL and return its first value, or None. Errors of APSW pass."""
        for row in self.raw.execute(sql, params):
            return row[0]
        return None

    def rows(
        self,
        sql: str,
        params: Sequence[Value] | Mapping[str, Value] | None = None,
        max_rows: int | None = None,
    ) -> list[tuple[Value, ...]]:
        """Run one client statement to its end. Raises HaError and OverBudget, nothing else."""
        cursor = self.cursor
        try:
            cursor.execute(sql, params)
            if max_rows is None:
                return cursor.fetchall()
            out: list[tuple[Value, ...]] = []
            for row in cursor:
                out.append(row)
                if len(out) > max_rows:
                    cursor.close(True)
                    raise HaError(
                        Code.TOO_LARGE,
                        f"the result has more than {max_rows} rows",
                        hint="add LIMIT, or fetch it in pieces",
                    )
            return out
        except HaError:
            raise
        except Exception as error:
            raise self.translated(error) from error

    def translated(self, error: BaseException) -> Exception:
        """OverBudget if the budget ended it, else the HaError for ``error``."""
        if self._over and isinstance(error, apsw.InterruptError):
            self._over = False
            return OverBudget()
        self._over = False
        return from_sqlite(error)

    @property
    def in_transaction(self) -> bool:
        return not self.raw.getautocommit()

    def rollback(self) -> None:
        """Roll back whatever is open, whether there is budget for it or not."""
        if self.in_transaction:
            self._undisturbed = True
            try:
                self.raw.execute("ROLLBACK")
            except apsw.Error:
                if self.in_transaction:
                    raise
            finally:
                self._undisturbed = False

    def interrupt(self) -> None:
        """From any thread: the running statement ends with CANCELLED."""
        self.cancelled = True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction that may write: committed at the end, rolled back on an error."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise

    def close(self) -> None:
        """Never raises: what the last connection cannot move from the WAL into the file now
        (disk full, I/O) the next one finds there."""
        close(self.raw)


@contextlib.contextmanager
def synced(connection: Connection) -> Iterator[None]:
    """What is committed in here outlasts a power failure at once, unless nothing is to
    (``synchronous`` OFF)."""
    raw = connection.raw
    lazy = raw.execute("PRAGMA synchronous").get == _NORMAL
    if lazy:
        raw.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        # The COMMIT stands: an error here would be taken for one of its own.
        with contextlib.suppress(apsw.Error):
            if lazy:
                raw.execute("PRAGMA synchronous = NORMAL")


def close(raw: apsw.Connection) -> None:
    """See :meth:`Connection.close`."""
    with contextlib.suppress(apsw.Error):
        raw.close(True)


def bind(
    params: Sequence[Value] | Mapping[str, Value] | None, names: Sequence[str | None]
) -> Sequence[Any] | None:
    """Parameters in SQLite's order. ``names`` as SQLite gives them, without prefix.

    A mapping whose keys are all numbers is positional. Raises BAD_PARAMETERS naming what is
    missing or not used.
    """
    if not names:
        if params:
            raise HaError(
                Code.BAD_PARAMETERS, f"the statement has no parameters, {len(params)} were given"
            )
        return None
    if params is None:
        params = ()
    # Asking for the abstract class costs as much as all the rest, once a row of a long list.
    if isinstance(params, list | tuple) or not isinstance(params, Mapping):
        if len(params) != len(names):
            raise HaError(
                Code.BAD_PARAMETERS,
                f"the statement has {len(names)} parameters, {len(params)} were given",
            )
        if RawText in map(type, params):
            raise _not_text()
        return params
    positional = bool(params) and all(key.isdigit() for key in params)
    out: list[Any] = []
    used: set[str] = set()
    for position, name in enumerate(names, 1):
        key = str(position) if name is None or (positional and name not in params) else name
        if key not in params:
            shown = f"number {position}" if name is None else f"{name!r}"
            raise HaError(Code.BAD_PARAMETERS, f"no value for parameter {shown}")
        used.add(key)
        out.append(_adapt(params[key]))
    if len(used) != len(params):
        unused = ", ".join(sorted(set(params) - used))
        raise HaError(Code.BAD_PARAMETERS, f"the statement has no parameter named {unused}")
    return out


def _adapt(value: Value) -> Value:
    if isinstance(value, RawText):
        raise _not_text()
    return value


def _not_text() -> HaError:
    return HaError(Code.BAD_TEXT, "text that is not UTF-8 cannot be bound; send it as a BLOB")


ConnectionHook = Callable[[apsw.Connection], None]
"""Registers functions, tables or collations on every connection that is opened."""
