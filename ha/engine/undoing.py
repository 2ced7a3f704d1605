"""UNDO, UNDOE and UNDOT: planned from the log, carried out as one new transaction.

The plan is made from the history and kept up with what is applied meanwhile; so when the
transaction runs, it knows the state that it runs on. It is published only if it follows that
state directly, else it is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import apsw
import trio

from ha.core.changeset import ChangeSet, FormatError, Operation, decode
from ha.core.errors import Code, HaError
from ha.core.parts import part_of
from ha.core.since import Since
from ha.core.sqltext import statement
from ha.core.touches import Shape, Transaction, fold_name
from ha.core.undo import Mode, Planner, Request
from ha.engine.api import Kind, Result, UndoReport
from ha.engine.database import Database
from ha.engine.history import History, Past, PastReader, unreadable
from ha.engine.iterating import closing
from ha.engine.unit import Stage, Unit
from ha.log.api import Entry, LogError
from ha.store import control
from ha.store.connection import Connection
from ha.store.executor import Executor
from ha.store.revert import MOST_OBSTACLES, Reverter, prepare, schema_change, shape_of
from ha.store.sqlite_errors import from_sqlite

_TRIES = 5
_PATIENCE = 120.0
"""Seconds after which no other try begins: each reads the history anew."""
"""Times that the plan is made from the start."""
_MOST_STATEMENTS = 1_000
_SHOWN_OBSTACLES = 10


class _Given(HaError):
    """Ends the transaction of a dry run, or of an undo with obstacles."""

    def __init__(self) -> None:
        super().__init__(Code.INTERNAL, "the undo is rolled back")


class _PlanAgain(HaError):
    """The plan cannot be kept up with what came: make it anew."""

    def __init__(self) -> None:
        super().__init__(
            Code.SERIALIZATION_FAILURE,
            "others changed the database again and again while the undo was computed",
            hint="try again",
        )


async def undo(
    database: Database,
    mode: Mode,
    since: Since,
    rows: Mapping[str, frozenset[int]] | None = None,
    *,
    dry_run: bool = False,
    request_id: str = "",
) -> UndoReport:
    """Revert transactions; see docs/spec.md, "History and undo". ``request_id``: a follower's
    name for it.

    Raises HaError: NOT_FOUND when the log does not hold what is meant, CONSTRAINT_VIOLATION
    with the list of obstacles, and whatever a write may end with. A dry run reports obstacles
    instead.
    """
    history = database.history
    if mode is not Mode.UNDO and since.seconds is not None:
        raise HaError(
            Code.BAD_REQUEST,
            f"{mode} takes the sequence of a transaction, not a duration",
            hint="HISTORY shows the sequences",
        )
    await _catch_up(database)
    first = await history.resolve(since)
    if first is None:
        return UndoReport(dry_run=dry_run)
    await history.require(first)
    request = Request(mode, first, rows)
    until = trio.current_time() + _PATIENCE
    tries = 0
    async with database.limiter:
        while True:
            tries += 1
            try:
                return await _Undo(database, request, dry_run, request_id).run()
            except _PlanAgain:
                if tries == _TRIES or trio.current_time() >= until:
                    raise


async def _catch_up(database: Database) -> None:
    """What is to be undone, and what came after it, may not be here yet. Raises NOT_WRITTEN."""
    try:
        end = (await database.log.state()).subject_last
    except LogError as error:
        raise unreadable(error) from error
    try:
        await database.wait_for(end)
    except HaError as error:
        if error.code is not Code.STALE:
            raise
        raise HaError(
            Code.NOT_WRITTEN,
            f"still catching up with the log after {database.options.staleness:g} s,"
            f" at {database.committer.applied} of {end}",
            hint="try again, or ask another node",
        ) from error


class _Undo:
    """One plan, and the transaction made of it."""

    def __init__(
        self, database: Database, request: Request, dry_run: bool, request_id: str
    ) -> None:
        self._database = database
        self._request = request
        self._request_id = request_id
        self._report = UndoReport(dry_run=dry_run)
        self._shapes: dict[str, Shape | None] = {}
        self._planner = Planner(request, self._shape, schema_change)
        self._window = request.sequence
        self._applied = 0
        self._news: deque[tuple[Entry, bool]] = deque()
        self._looking: Connection | None = None
        self._subject = database.log.subject

    async def run(self) -> UndoReport:
        database = self._database
        committer = database.committer
        connection = database.store.connect()
        try:
            prepare(connection)
            self._looking = connection
            self._applied = committer.applied
            committer.taps.append(self._tap)
            try:
                await self._read(database.history)
                await self._submit(Executor(connection))
            finally:
                committer.taps.remove(self._tap)
        except apsw.Error as error:
            raise from_sqlite(error) from error
        finally:
            connection.close()
        return self._report

    def _tap(self, entry: Entry, counts: bool) -> None:
        self._news.append((entry, counts))

    def _shape(self, table: str) -> Shape | None:
        folded = fold_name(table)
        if folded not in self._shapes:
            assert self._looking is not None
            self._shapes[folded] = shape_of(self._looking, table)
        return self._shapes[folded]

    # --- from the log ----------------------------------------------------------------

    async def _read(self, history: History) -> None:
        """All that the log held when the undo began."""
        first = self._request.sequence
        found = False
        try:
            async with closing(history.transactions(first, self._applied)) as transactions:
                async for past in transactions:
                    found = found or past.sequence == first
                    if not found and self._request.mode is not Mode.UNDO:
                        break
                    self._planner.feed(await self._transaction(history, past))
            if not found and self._request.mode is not Mode.UNDO:
                raise HaError(
                    Code.NOT_FOUND,
                    f"there is no transaction at {first}",
                    hint="HISTORY shows the sequences",
                )
            await self._read_window(history)
        except (LogError, FormatError) as error:
            raise unreadable(error) from error

    async def _read_window(self, history: History) -> None:
        """Transactions that others wrote while the first ones to be reverted were under way."""
        planner = self._planner
        self._window = planner.window
        if self._window >= self._request.sequence:
            return
        last = self._request.sequence - 1
        await history.require(self._window)
        async with closing(history.transactions(self._window, last)) as transactions:
            async for past in transactions:
                planner.feed_window(await self._transaction(history, past))
        if planner.outlook < self._window:
            await history.require(planner.outlook)
            async with closing(
                history.transactions(planner.outlook, self._window - 1)
            ) as transactions:
                async for past in transactions:
                    planner.feed_outlook(await self._transaction(history, past))

    async def _transaction(self, history: History, past: Past) -> Transaction:
        cs = past.change_set
        changes = cs.changes
        if past.parts:
            async with closing(history.changes(past)) as parts:
                changes = tuple([change async for part in parts for change in part])
        return self._of(past, cs.with_changes(changes))

    def _of(self, past: Past, cs: ChangeSet) -> Transaction:
        return Transaction(
            past.sequence,
            cs.changes,
            cs.base,
            cs.sequences,
            existing=cs.origin is None,
            identify=cs.identify or self._database.options.commit.identify,
        )

    # --- into the database -----------------------------------------------------------

    async def _submit(self, executor: Executor) -> None:
        database = self._database
        options = database.options.commit
        unit = Unit(
            (),
            deadline=trio.current_time() + options.publish_timeout,
            drains=options.asynchronous,
            alone=True,
            work=self._work,
            executor=executor,
            request=self._request_id,
        )
        try:
            await database.committer.submit(unit)
        except _Given:
            if not self._report.dry_run:
                raise _refused(self._report) from None
        except trio.Cancelled:
            # Its connection is in use until it is done.
            unit.again = False
            if unit.stage is not Stage.WAITING:
                database.committer.cancel(unit)
                with trio.CancelScope(shield=True):
                    await database.committer.finished(unit)
            raise
        self._report.sequence = unit.sequence

    def _work(self, executor: Executor) -> list[Result]:
        """In the transaction, maybe on a thread, and maybe several times."""
        connection = executor.connection
        self._catch_up()
        replaced = connection.generation != self._database.store.generation
        if replaced or control.position(connection, self._subject).applied != self._applied:
            raise _PlanAgain
        plan = self._planner.plan()
        partly = self._request.mode is not Mode.UNDO or self._request.rows is not None
        references = partly and ("foreign_keys", "ON") in self._database.store.options.pragmas
        reverted = Reverter(executor, references=references).run(plan)
        report = self._report
        report.rows = reverted.rows
        report.transactions = plan.transactions
        report.first, report.last = plan.first, plan.last
        report.schema = plan.schema
        report.obstacles = [*plan.obstacles, *reverted.obstacles][:MOST_OBSTACLES]
        if report.dry_run:
            captured = executor.finish()
            changes = captured.changes if captured is not None else ()
            report.statements = [statement(c) for c in changes[:_MOST_STATEMENTS]]
        if report.dry_run or report.obstacles:
            raise _Given
        return [Result(Kind.COMMAND, self._request.mode.value, rows_affected=report.rows)]

    def _catch_up(self) -> None:
        """Feed the plan with what was applied since. Raises _PlanAgain."""
        reader = PastReader()
        while self._news:
            entry, counts = self._news.popleft()
            self._applied = entry.sequence
            past = reader.read(entry) if counts else None
            if past is None:
                if counts and _is_part(entry):
                    raise _PlanAgain
                continue
            cs = past.change_set
            if (
                reader.missing
                or past.parts
                or any(c.operation is Operation.SQL for c in cs.changes)
            ):
                raise _PlanAgain
            self._planner.feed(self._of(past, cs))
        if self._planner.window < self._window:
            raise _PlanAgain


def _is_part(entry: Entry) -> bool:
    try:
        return part_of(decode(entry.payload)) is not None
    except FormatError:
        return False


def _refused(report: UndoReport) -> HaError:
    obstacles = report.obstacles
    count = len(obstacles)
    shown = [o.message for o in obstacles[:_SHOWN_OBSTACLES]]
    message = "the undo cannot be done cleanly: " + "; ".join(shown)
    if count > _SHOWN_OBSTACLES:
        message += f"; and {count - _SHOWN_OBSTACLES} more"
    return HaError(
        Code.CONSTRAINT_VIOLATION,
        message,
        detail="\n".join(o.message for o in obstacles),
        hint="name the rows that are to be reverted (WHERE table(rowid)),"
        " or revert the other changes too (UNDO)",
        sequence=next((o.sequence for o in obstacles if o.sequence is not None), None),
    )
