"""One client's conversation with one database, behind every protocol.

Reads run on pooled connections, autocommitted writes in the shared batch. A session gets a
connection of its own when it has state that others must not see: an open transaction, a
pragma it set, TEMP objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeVar

import apsw
import trio

from ha.core.changeset import Operation
from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.core.undo import Mode
from ha.engine.api import (
    HistoryItem,
    Kind,
    Params,
    Prepared,
    Result,
    Routing,
    Rows,
    Statement,
    Status,
    UndoReport,
)
from ha.engine.command import Command, CompleteRows
from ha.engine.database import Database
from ha.engine.iterating import closing
from ha.engine.reading import OpenRows, Query
from ha.engine.shards import CrossShard, has_hint
from ha.engine.statements import (
    OwnStatements,
    is_stream,
    kind_of,
    require_single,
    to_prepared,
    to_result,
)
from ha.engine.turn import Turn
from ha.engine.undoing import undo
from ha.engine.unit import Stage, Unit
from ha.store.connection import Connection, bind
from ha.store.executor import Executor, Ran, TransactionLost
from ha.store.parse import Parsed, first_word
from ha.store.sqlite_errors import from_sqlite

T = TypeVar("T")
CrossShards = Callable[[str], CrossShard | None]
"""Finds the cross-shard query that a text is, None if it is none."""
Commands = Callable[["Session", str], Command | None]
"""Finds the command of ours that a text is, None if it is SQL."""


class Session:
    """See :class:`ha.engine.api.SessionApi`. Not for two tasks at once, but for cancel()."""

    def __init__(
        self,
        database: Database,
        *,
        protocol: str,
        find_database: Callable[[str], Database],
        commands: Commands | None = None,
        cross_shards: CrossShards | None = None,
        prepare_connection: Callable[[apsw.Connection], None] | None = None,
    ) -> None:
        self._database = database
        self.protocol = protocol
        self._find_database = find_database
        self._commands = commands
        self._cross_shards = cross_shards
        self._across: CrossShard | None = None
        self._prepare_connection = prepare_connection
        self._own: Executor | None = None
        self._own_statements = OwnStatements()
        self._pinned = False
        self._transaction = False
        self._looked = False  # has the transaction answered anything from its snapshot?
        self._implicit_savepoint = False
        self._aborted: HaError | None = None
        self._turn: Turn | None = None
        self._busy: Connection | None = None
        self._unit: Unit | None = None
        self._waiting: trio.CancelScope | None = None
        self._last_insert_id = 0
        self._changes = 0
        self._query_only = False
        self._read_only = False
        self._routing = Routing()
        self.request_id = ""
        """A follower's name for what it has sent: stands in the message of the log."""
        self._closed = False
        self._gone: HaError | None = None
        self._lost: HaError | None = None
        self._evicted: HaError | None = None
        self._freed = trio.Event()
        self.open_rows: set[OpenRows] = set()
        self._txseq = 0
        database.sessions[protocol] += 1
        database.clients.add(self)

    # --- what it is ------------------------------------------------------------------

    @property
    def database(self) -> Database:
        return self._database

    @property
    def database_id(self) -> str:
        return self._database.id

    @property
    def txseq(self) -> int:
        return self._txseq

    @property
    def status(self) -> Status:
        if self._aborted is not None:
            return Status.ABORTED
        return Status.TRANSACTION if self._transaction else Status.IDLE

    @property
    def routing(self) -> Routing:
        return self._routing

    @routing.setter
    def routing(self, value: Routing) -> None:
        if value.linearizable:
            raise HaError(
                Code.UNSUPPORTED,
                "linearizable reads need a leader, and on this node everybody takes writes",
                hint="start the nodes with --leader-addr",
            )
        self._routing = value

    async def use_database(self, database_id: str) -> None:
        if self.status is not Status.IDLE:
            raise HaError(Code.IN_TRANSACTION, "the database cannot be changed in a transaction")
        database = self._find_database(database_id)
        if database is not self._database:
            self._drop_own()
            self._database.sessions[self.protocol] -= 1
            self._database.clients.discard(self)
            database.sessions[self.protocol] += 1
            database.clients.add(self)
            self._gone = self._lost = None
            self._database = database
            self._txseq = 0

    @asynccontextmanager
    async def history(self, since: Since) -> AsyncIterator[AsyncIterator[HistoryItem]]:
        self._check_there()
        async with closing(self._database.history.items(since)) as items:
            yield items

    async def undo(
        self,
        mode: Mode,
        since: Since,
        rows: Mapping[str, frozenset[int]] | None = None,
        *,
        dry_run: bool = False,
    ) -> UndoReport:
        if self.status is not Status.IDLE:
            raise HaError(Code.IN_TRANSACTION, f"{mode} cannot be part of a transaction")
        self._check_there()
        self._check_writable()
        report = await undo(
            self._database, mode, since, rows, dry_run=dry_run, request_id=self.request_id
        )
        self._txseq = report.sequence or self._txseq
        return report

    async def begin_read_only(self) -> None:
        """Begin a transaction that may not write, and never leaves this node."""
        if self._aborted is not None:
            raise self._aborted
        if self.status is not Status.IDLE:
            raise HaError(Code.IN_TRANSACTION, "cannot start a transaction within a transaction")
        self._begin_own()
        self._read_only = True

    async def wait_for(self, txseq: int) -> None:
        with self._interruptible():
            await self._database.wait_for(txseq)

    # --- statements ------------------------------------------------------------------

    async def prepare(self, sql: str) -> Prepared:
        command = self._commands(self, sql) if self._commands else None
        if command is not None:
            return Prepared(sql, Kind.COMMAND, command.verb, command.columns, (), command.remaining)
        self._check_there()
        across = self._find_across(sql)
        if across is not None:
            return across.prepared
        return to_prepared(self._parse(sql))

    async def execute(
        self, sql: str, params: Params = None, *, max_rows: int | None = None
    ) -> Result:
        command = self._commands(self, sql) if self._commands else None
        if command is not None:
            return await command.run(max_rows)
        self._check_there()
        across = self._find_across(sql)
        if across is not None:
            with self._running_across(across):
                return await across.run(params, max_rows)
        parsed = self._parse(sql)
        require_single(parsed)
        if parsed.empty:
            return Result(Kind.EMPTY)
        if parsed.transaction is not None:
            return await self._control(parsed)
        if self._aborted is not None:
            raise self._aborted
        if parsed.savepoint is not None:
            return await self._savepoint(parsed)
        if self._transaction:
            return await self._in_transaction(parsed, params, max_rows)
        return await self._alone(parsed, params, max_rows)

    async def transaction(
        self, statements: Sequence[Statement], *, max_rows: int | None = None
    ) -> list[Result]:
        if self.status is not Status.IDLE:
            raise HaError(Code.IN_TRANSACTION, "a transaction is open in this session")
        if not statements:
            return []
        if len(statements) == 1:
            only = statements[0]
            return [await self.execute(only.sql, only.params, max_rows=max_rows)]
        self._check_there()
        if any("/*+" in s.sql and has_hint(s.sql) for s in statements):
            raise HaError(Code.UNSUPPORTED, "a cross-shard query is no part of a transaction")
        if self._pinned:
            return await self._transaction_on_own(statements, max_rows)
        if all(not p.changes_file for p in self._parse_known(statements)):
            return await self._read_together(statements, max_rows)
        schema = any(map(_changes_schema, {s.sql for s in statements}))
        return (await self._submit(statements, max_rows, schema=schema)).results

    def query(self, sql: str, params: Params = None) -> Query:
        return Query(self, sql, params)

    def find_reading(self, sql: str, params: Params) -> Parsed | AbstractAsyncContextManager[Rows]:
        """What :meth:`query` reads: a statement to be run row by row, or what answers it else."""
        parsed = None
        if self._own is None or not (self._transaction or self._pinned):
            parsed = self._database.cache.get(sql)
        if parsed is None:
            command = self._commands(self, sql) if self._commands else None
            if command is not None:
                return command.open()
        self._check_there()
        across = self._find_across(sql)
        if across is not None:
            return self._open_across(across, params)
        if parsed is None:
            parsed = self._parse(sql)
        if parsed.remaining:
            require_single(parsed)
        if not is_stream(parsed):
            return self._open_complete(sql, params)
        if self._aborted is not None:
            raise self._aborted
        return parsed

    @asynccontextmanager
    async def _open_across(self, across: CrossShard, params: Params) -> AsyncIterator[Rows]:
        with self._running_across(across):
            async with across.open(params) as merged:
                yield merged

    @asynccontextmanager
    async def _open_complete(self, sql: str, params: Params) -> AsyncIterator[Rows]:
        yield CompleteRows(await self.execute(sql, params))

    def cancel(self) -> None:
        if self._busy is not None:
            self._busy.interrupt()
        elif self._waiting is not None:
            self._waiting.cancel()
        elif self._across is not None:
            self._across.interrupt()
        elif self._unit is not None:
            self._database.committer.cancel(self._unit)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._rollback()
        self._drop_own()
        self._database.sessions[self.protocol] -= 1
        self._database.clients.discard(self)

    # --- when the file goes away -----------------------------------------------------

    async def evict(self, error: HaError, *, for_good: bool) -> None:
        """Use nothing of the database's file any more, from when this returns.

        ``for_good``: all that is asked of the session raises ``error`` from now on, until it
        uses another database. Else it goes on with what takes the file's place; what it had
        open is lost, and it is told so.
        """
        if for_good:
            self._gone = error
        if self._busy is not None:
            if self._transaction:
                self._aborted = error
            else:
                self._evicted = error
            self._freed = trio.Event()
            self._busy.interrupt()
            await self._freed.wait()
            self._evicted = None
        for rows in self.open_rows:
            rows.break_off(error)
        if self._transaction:
            self._abort(error)
        elif self._pinned:
            self._lost = error
        self._drop_own()

    def _check_there(self) -> None:
        if self._gone is not None:
            raise self._gone
        if self._lost is not None:
            error, self._lost = self._lost, None
            raise error

    # --- over several databases ------------------------------------------------------

    def _find_across(self, sql: str) -> CrossShard | None:
        if "/*+" not in sql or self._cross_shards is None:
            return None
        across = self._cross_shards(sql)
        if across is not None:
            self.check_open()
            if self._turn is not None:
                raise HaError(
                    Code.UNSUPPORTED,
                    "a cross-shard query would not see what this transaction has written",
                    hint="commit first",
                )
        return across

    @contextmanager
    def _running_across(self, across: CrossShard) -> Iterator[None]:
        self._across = across
        try:
            yield
        finally:
            self._across = None

    # --- parsing ---------------------------------------------------------------------

    def _parse(self, sql: str) -> Parsed:
        """By the session's own connection where it may see more than the committed schema."""
        if self._own is not None and self._pinned:
            return self._own.connection.parse(sql)
        if self._own is not None and self._transaction:
            return self._own_statements.parse(self._own.connection, sql)
        try:
            return self._database.cache.parse(self._database.store.parser, sql)
        except HaError as error:
            if self._prepare_connection is None or error.code is Code.REFUSED:
                raise
        parsed = self._open_own().connection.parse(sql)
        parsed.own = True
        return parsed

    def _parse_known(self, statements: Sequence[Statement]) -> list[Parsed]:
        """Those that the committed schema understands; a unit parses the rest as it runs."""
        out: list[Parsed] = []
        for statement in statements[:64]:
            try:
                parsed = self._database.cache.parse(self._database.store.parser, statement.sql)
            except HaError as error:
                if error.code is Code.REFUSED:
                    raise
                return [_WRITES]
            out.append(parsed)
            if parsed.changes_file:
                return out
        return out if len(statements) <= 64 else [_WRITES]

    def _parse_in_unit(self, connection: Connection, sql: str) -> Parsed:
        """While a unit runs, its own DDL may have changed what a text means."""
        cached = self._database.cache.get(sql)
        parsed = cached if cached is not None else connection.parse(sql)
        require_single(parsed)
        if parsed.transaction is not None:
            raise HaError(
                Code.BAD_REQUEST, f"{parsed.verb} in a list: a list is one transaction already"
            )
        if parsed.session_pragma:
            raise HaError(Code.BAD_REQUEST, "a list cannot set pragmas of a session")
        if parsed.temp:
            raise HaError(Code.UNSUPPORTED, "TEMP objects need a session: use another protocol")
        return parsed

    # --- outside of transactions -----------------------------------------------------

    async def _alone(self, parsed: Parsed, params: Params, max_rows: int | None) -> Result:
        if parsed.session_pragma or parsed.temp_ddl or (parsed.temp and not parsed.readonly):
            self._pin()
        if parsed.session_pragma:
            return await self._set_pragma(parsed)
        if parsed.verb == "PRAGMA" and parsed.pragma == ("query_only", None) and not self._pinned:
            # A pooled connection would answer for itself: it only reads, the session need not.
            return to_result(parsed, Ran(parsed.columns, [(0,)], 0, self._last_insert_id))
        if not parsed.changes_file:
            return await self._read(parsed, params, max_rows)
        self._check_writable()
        if self._pinned or parsed.own:
            self._begin_own()
            try:
                result = await self._in_transaction(parsed, params, max_rows)
                await self._commit()
            except BaseException:
                self._rollback()
                raise
            return result
        schema = not parsed.dml
        unit = await self._submit([Statement(parsed.sql, params)], max_rows, schema=schema)
        return unit.results[0]

    async def _read(self, parsed: Parsed, params: Params, max_rows: int | None) -> Result:
        values = bind(params, parsed.parameters)
        database = self._database
        async with database.limiter:
            own = self._own if self._pinned or parsed.own else None
            connection = own.connection if own is not None else database.store.take_reader()
            try:
                self._impersonate(connection)
                rows = await self.run(
                    connection, lambda: connection.rows(parsed.sql, values, max_rows)
                )
            finally:
                if own is None:
                    database.store.give_reader(connection)
        return to_result(parsed, Ran(parsed.columns, rows, 0, self._last_insert_id))

    async def _read_together(
        self, statements: Sequence[Statement], max_rows: int | None
    ) -> list[Result]:
        """Several reads of one snapshot."""
        database = self._database
        connection = database.store.take_reader()

        def work() -> list[Result]:
            connection.rollback()
            connection.execute("BEGIN")
            results: list[Result] = []
            for statement in statements:
                parsed = self._parse_in_unit(database.store.parser, statement.sql)
                values = bind(statement.params, parsed.parameters)
                rows = connection.rows(parsed.sql, values, max_rows)
                results.append(to_result(parsed, Ran(parsed.columns, rows, 0, 0)))
            return results

        async with database.limiter:
            try:
                return await self.run(connection, work)
            finally:
                database.store.give_reader(connection)

    async def _submit(
        self, statements: Sequence[Statement], max_rows: int | None, *, schema: bool
    ) -> Unit:
        """``schema``: some of them may be more than changes of rows."""
        committer = self._database.committer
        options = self._database.options.commit
        unit = Unit(
            statements,
            deadline=trio.current_time() + options.publish_timeout,
            max_rows=max_rows,
            last_insert_id=self._last_insert_id,
            changes=self._changes,
            local_ddl=not options.ddl_sync and self._has_ddl(statements),
            drains=options.asynchronous and schema,
            alone=schema,
            request=self.request_id,
            parse=self._parse_in_unit,
        )
        async with self._database.limiter:
            self._unit = unit
            try:
                await committer.submit(unit)
            finally:
                self._unit = None
        self._last_insert_id = unit.last_insert_id
        self._changes = unit.changes
        self._txseq = unit.sequence or self._txseq
        return unit

    def _has_ddl(self, statements: Sequence[Statement]) -> bool:
        parsed = self._parse_known(statements)
        ddl = any(p.ddl for p in parsed)
        if ddl and len(statements) > 1:
            raise HaError(
                Code.REFUSED,
                "with --disable-ddl-sync a schema change runs alone, not in a transaction",
            )
        return ddl

    def _check_writable(self) -> None:
        if self._query_only:
            raise HaError(
                Code.READ_ONLY,
                "attempt to write a readonly database: query_only is on",
                sqlite_code=apsw.SQLITE_READONLY,
            )

    # --- state of its own ------------------------------------------------------------

    def _open_own(self) -> Executor:
        if self._own is None:
            connection = self._database.store.connect()
            if self._prepare_connection is not None:
                self._prepare_connection(connection.raw)
            self._own = Executor(connection)
        return self._own

    def _pin(self) -> None:
        self._open_own()
        self._pinned = True

    def _drop_own(self) -> None:
        if self._own is not None:
            self._own.connection.close()
            self._own = None
        self._own_statements = OwnStatements()
        self._pinned = False
        self._query_only = False

    async def _set_pragma(self, parsed: Parsed) -> Result:
        own = self._open_own()
        connection = own.connection
        assert parsed.pragma is not None
        rows = await self.run(connection, lambda: connection.rows(parsed.sql))
        if parsed.pragma[0] == "query_only":
            self._query_only = bool(connection.execute("PRAGMA query_only"))
        return to_result(parsed, Ran(parsed.columns, rows, 0, self._last_insert_id))

    def _impersonate(self, connection: Connection) -> None:
        connection.raw.set_last_insert_rowid(self._last_insert_id)
        connection.session_changes = self._changes

    def own_connection(self, parsed: Parsed) -> Connection | None:
        """That a reading statement must run on; None: any reader of the pool will do."""
        if self._own is not None and (self._transaction or self._pinned or parsed.own):
            self._looked = True
            return self._own.connection
        return None

    @property
    def last_insert_id(self) -> int:
        return self._last_insert_id

    @property
    def changes(self) -> int:
        """What changes() answers."""
        return self._changes

    def check_open(self) -> None:
        """Raises what the client has yet to be told of its transaction's end."""
        if self._aborted is not None:
            raise self._aborted

    async def run(self, connection: Connection, work: Callable[[], T], *, long: bool = False) -> T:
        with self._using(connection):
            return await self._database.runtime.run(connection, work, long=long)

    @contextmanager
    def _using(self, connection: Connection) -> Iterator[None]:
        """What runs may be interrupted, by its client and by others who need what it holds."""
        self.check_open()
        self._busy = connection
        try:
            yield
        except HaError:
            if self._evicted is not None:
                raise self._evicted from None
            raise
        finally:
            self._busy = None
            self._give_up_expired()
            self._freed.set()
        self.check_open()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Around waiting that a client may give up: raises CANCELLED then."""
        with trio.CancelScope() as scope:
            self._waiting = scope
            try:
                yield
            finally:
                self._waiting = None
        if scope.cancelled_caught:
            raise HaError(Code.CANCELLED, "the statement was cancelled")

    # --- transactions ----------------------------------------------------------------

    async def _control(self, parsed: Parsed) -> Result:
        if parsed.transaction == "BEGIN":
            if self._aborted is not None:
                raise self._aborted
            if self._transaction:
                raise HaError(
                    Code.IN_TRANSACTION, "cannot start a transaction within a transaction"
                )
            self._begin_own()
            words = parsed.sql.upper().split()
            if "IMMEDIATE" in words or "EXCLUSIVE" in words:
                try:
                    await self._take_writer()
                except BaseException:
                    self._rollback()
                    raise
        elif parsed.transaction == "COMMIT":
            if self._aborted is not None:
                error, self._aborted = self._aborted, None
                raise error
            self._require_transaction("commit")
            try:
                await self._commit()
            except BaseException:
                self._rollback()
                raise
        else:
            if self._aborted is not None:
                self._aborted = None
            else:
                self._require_transaction("rollback")
                self._rollback()
        return Result(kind_of(parsed), parsed.verb)

    def _require_transaction(self, what: str) -> None:
        if not self._transaction:
            raise HaError(Code.NO_TRANSACTION, f"cannot {what} - no transaction is active")

    def _begin_own(self) -> None:
        own = self._open_own()
        try:
            own.connection.execute("BEGIN")
            self._impersonate(own.connection)
            own.impersonate(self._last_insert_id, self._changes)
            own.start()
        except apsw.Error as error:
            own.discard()
            own.connection.rollback()
            raise from_sqlite(error) from error
        self._transaction = True
        self._looked = False

    async def _take_writer(self) -> None:
        """Before the first write of a transaction."""
        if self._turn is not None:
            return
        if self._read_only:
            raise HaError(Code.READ_ONLY, "the transaction was begun as READ ONLY")
        self._check_writable()
        own = self._open_own()
        options = self._database.options.commit
        turn = Turn(own, trio.current_time() + options.publish_timeout, self._expired)
        with self._interruptible():
            await self._database.committer.take_turn(turn)
        self._turn = turn
        try:
            if self._looked:
                self._upgrade(own.connection)
            else:
                # It has been told nothing yet, so what others wrote since BEGIN is no conflict.
                own.begin_again()
        except apsw.Error as error:
            problem = from_sqlite(error)
            self._abort(problem)
            raise problem from error

    @staticmethod
    def _upgrade(connection: Connection) -> None:
        """Turn the read transaction into a write one; SQLITE_BUSY if its snapshot is old."""
        connection.execute("UPDATE ha_log SET subject = subject WHERE id = 1")

    async def _savepoint(self, parsed: Parsed) -> Result:
        assert parsed.savepoint is not None
        if not self._transaction:
            if parsed.savepoint[0] != "BEGIN":
                raise HaError(Code.SQL_ERROR, f"no such savepoint: {parsed.savepoint[1]}")
            self._begin_own()
            self._implicit_savepoint = True
        own = self._open_own()
        operation, name = parsed.savepoint
        if operation == "RELEASE" and self._implicit_savepoint and own.is_outermost(name):
            try:
                await self._commit()
            except BaseException:
                self._rollback()
                raise
            return Result(kind_of(parsed), parsed.verb)
        try:
            await self.run(own.connection, lambda: own.run(parsed, None))
        except TransactionLost as lost:
            self._abort(lost.error)
            raise lost.error from lost
        return Result(kind_of(parsed), parsed.verb)

    async def _in_transaction(self, parsed: Parsed, params: Params, max_rows: int | None) -> Result:
        own = self._open_own()
        if parsed.session_pragma:
            return await self._set_pragma(parsed)
        if parsed.temp_ddl or (parsed.temp and not parsed.readonly):
            self._pinned = True
        if parsed.changes_file:
            if not self._database.options.commit.ddl_sync and parsed.ddl:
                raise HaError(
                    Code.REFUSED,
                    "with --disable-ddl-sync a schema change runs alone, not in a transaction",
                )
            if self._database.options.commit.asynchronous and _changes_schema(parsed.sql):
                raise HaError(
                    Code.UNSUPPORTED,
                    "with --async-replication a schema change cannot be part of a transaction",
                    hint="run it alone: it waits until the log has all earlier writes",
                )
            await self._take_writer()
        async with self._database.limiter:
            try:
                ran = await self._run_in_transaction(own, parsed, params, max_rows)
            except TransactionLost as lost:
                error = self._aborted or lost.error
                self._abort(error)
                raise error from lost
        self._last_insert_id = ran.last_insert_id
        self._changes = own.changes
        return to_result(parsed, ran)

    async def _run_in_transaction(
        self, own: Executor, parsed: Parsed, params: Params, max_rows: int | None
    ) -> Ran:
        connection = own.connection
        self.check_open()
        self._looked = True
        if parsed.changes_file and self._own_statements.is_brief(connection, parsed):
            connection.cancelled = False
            return own.run(parsed, params, max_rows)
        # An interrupt would end the transaction with the statement: writes have no budget.
        with self._using(connection):
            return await self._database.runtime.run(
                connection,
                lambda: own.run(parsed, params, max_rows),
                long=parsed.changes_file,
            )

    async def _transaction_on_own(
        self, statements: Sequence[Statement], max_rows: int | None
    ) -> list[Result]:
        self._begin_own()
        results: list[Result] = []
        try:
            for statement in statements:
                results.append(
                    await self.execute(statement.sql, statement.params, max_rows=max_rows)
                )
            await self._commit()
        except BaseException:
            self._rollback()
            raise
        return results

    async def _commit(self) -> None:
        own = self._open_own()
        turn = self._turn
        if turn is None:
            own.discard()
            try:
                own.connection.execute("COMMIT")
            except apsw.Error as error:
                raise from_sqlite(error) from error
            self._end_transaction()
            return
        try:
            captured = own.finish()
        except TransactionLost as lost:
            raise lost.error from lost
        except apsw.Error as error:
            raise from_sqlite(error) from error
        if captured is None:
            # Nothing of the file is changed, but TEMP tables may be.
            try:
                own.connection.execute("COMMIT")
            except apsw.Error as error:
                raise from_sqlite(error) from error
            self._end_transaction()
            return
        schema = any(c.operation is Operation.SQL for c in captured.changes)
        unit = Unit((), deadline=turn.deadline, again=False, alone=schema, request=self.request_id)
        unit.captured = captured
        unit.stage = Stage.RUNNING
        turn.commit(unit)
        try:
            with trio.CancelScope(shield=True):
                await unit.done.wait()
        finally:
            self._end_transaction()
        if unit.error is not None:
            raise unit.error
        self._txseq = unit.sequence or self._txseq

    def _end_transaction(self) -> None:
        """The connection holds nothing any more; give the writer back."""
        self._transaction = False
        self._implicit_savepoint = False
        self._read_only = False
        if self._turn is not None:
            self._turn.release()
            self._turn = None
        if self._own is not None and not self._pinned and self._prepare_connection is None:
            self._own.connection.close()
            self._own = None

    def _rollback(self) -> None:
        if self._own is not None and self._transaction:
            self._own.discard()
            self._own.connection.rollback()
        if self._transaction:
            self._end_transaction()
        self._aborted = None

    def _abort(self, error: HaError) -> None:
        """The transaction is over, and its client is told at its next statement."""
        self._rollback()
        self._aborted = error

    def _expired(self, error: HaError) -> None:
        """The committer takes the writer back."""
        if self._busy is not None:
            self._aborted = error
            self._busy.interrupt()
        else:
            self._abort(error)

    def _give_up_expired(self) -> None:
        """The writer was asked back while a statement ran: roll back now that it has ended."""
        if self._aborted is not None and self._transaction:
            self._abort(self._aborted)


def _changes_schema(sql: str) -> bool:
    return first_word(sql) in ("CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE", "PRAGMA")


_WRITES = Parsed("", "", "INSERT", False, (), (), changes_file=True)
