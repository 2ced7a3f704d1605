"""Sessions of a node in leader mode: what runs here, and what the leader runs for them.

On the leader a session is like any other. On a follower

* reads run here, and wait until this node has applied what the session last wrote;
* writes, and transactions from their BEGIN on, run on the leader, with the state that the session
  has: last_insert_rowid(), changes(), pragmas. Their answers and errors are the leader's;
* BEGIN READ ONLY, TEMP objects and dry runs of UNDO stay here.

A write that nobody has answered is settled in the log: its message carries the id of the request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

import trio

from ha.core.dsn import parse_dsn
from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.core.undo import Mode
from ha.core.values import Value
from ha.engine.api import (
    Column,
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
from ha.engine.command import Command
from ha.engine.database import Database
from ha.engine.forwarding import Carried, Cluster, LeaderLost, Remote, RemoteRows
from ha.engine.iterating import closing
from ha.engine.leadership import Leader, Role
from ha.engine.reading import Query
from ha.engine.session import _WRITES, Session
from ha.engine.shards import has_hint
from ha.log.api import LogError
from ha.store.parse import Parsed, first_word

T = TypeVar("T")

_PAUSE = 0.1
"""Seconds between two tries where no event tells that another one may help."""
_CHANGING = frozenset(
    {"INSERT", "REPLACE", "UPDATE", "DELETE", "WITH", "CREATE", "DROP", "ALTER", "ANALYZE"}
)
_UNSEEN = frozenset({Code.SQL_ERROR, Code.UNKNOWN_TABLE, Code.UNKNOWN_COLUMN, Code.OBJECT_EXISTS})
"""What SQLite says of a statement whose table is with the leader, and not yet here."""
_ELSEWHERE = frozenset({Code.NOT_LEADER, Code.NO_LEADER})
"""Nothing was written: another node leads, or will, or this one's term is not open yet."""
_ONLY_IN_TRANSACTION = frozenset({"foreign_keys", "defer_foreign_keys"})
_DATABASE_COMMANDS = frozenset({"CREATE DATABASE", "DROP DATABASE"})
_DONE_ALREADY = frozenset({Code.ALREADY_EXISTS, Code.NOT_FOUND})


class _Here:
    """The leader is this node."""


_HERE: Final = _Here()


class RoutedSession(Session):
    """``forwarded``: a follower's part, on this node: what this node cannot do as the leader is
    refused, and never sent on."""

    def __init__(
        self, database: Database, *, cluster: Cluster, forwarded: bool = False, **options: Any
    ) -> None:
        super().__init__(database, **options)
        self._cluster = cluster
        self._forwarded = forwarded
        self._remote: Remote | None = None
        """Where the open transaction is, if that is with the leader."""
        self._calling: Remote | None = None
        self._behind = 0
        self._pragmas: dict[str, str] = {}
        self._confirmed = False

    # --- what it is ------------------------------------------------------------------

    @property
    def status(self) -> Status:
        if self._remote is not None:
            return self._remote.status
        return super().status

    @property
    def routing(self) -> Routing:
        return self._routing

    @routing.setter
    def routing(self, value: Routing) -> None:
        self._routing = value

    def restore(self, carried: Carried) -> None:
        """Take over the state of a session on a follower."""
        self._last_insert_id = carried.last_insert_id
        self._changes = carried.changes
        self._routing = Routing(linearizable=carried.linearizable)

    @property
    def _leads(self) -> bool:
        return self._cluster.leadership.role is Role.LEADER

    def _goes_away(self) -> bool:
        """Would a write, or a transaction that begins now, run on another node?"""
        return not self._forwarded and not self._routing.local and not self._leads

    async def use_database(self, database_id: str) -> None:
        before = self._database
        await super().use_database(database_id)
        if self._database is not before:
            self._behind = 0

    def _drop_own(self) -> None:
        super()._drop_own()
        self._pragmas.clear()

    # --- how new it must be ----------------------------------------------------------

    async def _catch_up(self) -> None:
        """Read your writes: those that the leader has made for this session."""
        if self._behind:
            await self._database.wait_for(self._behind)
            self._behind = 0

    async def _freshen(self) -> None:
        """Before a read that is no part of a transaction."""
        await self._catch_up()
        if self._routing.linearizable and not self._confirmed and not self._transaction:
            await self._database.wait_for(await self._confirm())

    async def _confirm(self) -> int:
        """A position that holds all writes which were acknowledged before this was called."""
        deadline = trio.current_time() + self._cluster.wait
        while True:
            leader = await self._find(deadline)
            try:
                if self._leads:
                    return await self._cluster.leadership.confirm(self._database.id)
                if self._forwarded:
                    raise self._not_leader()
                with self._interruptible():
                    return await self._cluster.forwarder.confirm(leader, self._database.id)
            except LeaderLost as lost:
                await self._pause(deadline, self._unreachable(leader, lost))
            except HaError as error:
                if error.code not in _ELSEWHERE or self._forwarded:
                    raise
                await self._pause(deadline, self._refused(leader, error))

    # --- statements ------------------------------------------------------------------

    async def prepare(self, sql: str) -> Prepared:
        command = self._commands(self, sql) if self._commands else None
        if command is None and self._remote is not None:
            self._refuse_across(sql)
            return await self._in_remote(lambda remote: remote.prepare(sql))
        await self._catch_up()
        try:
            return await super().prepare(sql)
        except HaError as error:
            if not self._unseen(sql, error):
                raise
            found = await self._ask(lambda remote, _: remote.prepare(sql))
            if isinstance(found, _Here):
                raise
            return found

    async def execute(
        self, sql: str, params: Params = None, *, max_rows: int | None = None
    ) -> Result:
        command = self._commands(self, sql) if self._commands else None
        if command is not None:
            return await self._command(command, sql, max_rows)
        if self._remote is not None:
            return await self._execute_in_remote(sql, params, max_rows)
        await self._catch_up()
        if self._routing.linearizable and "/*+" in sql and has_hint(sql):
            await self._freshen()
        return await super().execute(sql, params, max_rows=max_rows)

    async def transaction(
        self, statements: Sequence[Statement], *, max_rows: int | None = None
    ) -> list[Result]:
        await self._catch_up()

        async def here() -> list[Result]:
            return await super(RoutedSession, self).transaction(statements, max_rows=max_rows)

        if len(statements) < 2 or self.status is not Status.IDLE:
            return await here()
        self._check_there()
        if any("/*+" in s.sql and has_hint(s.sql) for s in statements):
            return await here()  # which refuses it
        if all(not p.changes_file for p in self._parse_known(statements)):
            if self._pinned:
                await self._freshen()
            return await here()
        self._check_writable()
        return await self._write(
            here, lambda remote, request: remote.transaction(statements, max_rows, request)
        )

    def find_reading(self, sql: str, params: Params) -> Parsed | AbstractAsyncContextManager[Rows]:
        if self._remote is not None:
            command = self._commands(self, sql) if self._commands else None
            return command.open() if command is not None else self._query_in_remote(sql, params)
        if self._behind or (
            self._routing.linearizable and not self._confirmed and not self._transaction
        ):
            return self._query_later(sql, params)
        return super().find_reading(sql, params)

    @asynccontextmanager
    async def _query_later(self, sql: str, params: Params) -> AsyncIterator[Rows]:
        await self._freshen()
        self._confirmed = True
        query = Query(self, sql, params)
        try:
            rows = await query.__aenter__()
        finally:
            self._confirmed = False
        try:
            yield rows
        finally:
            await query.__aexit__(None, None, None)

    async def _read(self, parsed: Parsed, params: Params, max_rows: int | None) -> Result:
        await self._freshen()
        return await super()._read(parsed, params, max_rows)

    async def _read_together(
        self, statements: Sequence[Statement], max_rows: int | None
    ) -> list[Result]:
        await self._freshen()
        return await super()._read_together(statements, max_rows)

    def _parse(self, sql: str) -> Parsed:
        try:
            return super()._parse(sql)
        except HaError as error:
            if not self._unseen(sql, error):
                raise
            # The leader has the last word.
            return replace(_WRITES, sql=sql, verb=first_word(sql))

    def _unseen(self, sql: str, error: HaError) -> bool:
        """May a write make sense to the leader, whose schema may be newer?"""
        return (
            error.code in _UNSEEN
            and not self._transaction
            and self._goes_away()
            and first_word(sql) in _CHANGING
        )

    async def _alone(self, parsed: Parsed, params: Params, max_rows: int | None) -> Result:
        if parsed.session_pragma:
            result = await super()._alone(parsed, params, max_rows)
            assert parsed.pragma is not None
            self._pragmas[parsed.pragma[0]] = parsed.sql
            return result
        local_ddl = parsed.ddl and not self._database.options.commit.ddl_sync
        if not parsed.changes_file or local_ddl:
            return await super()._alone(parsed, params, max_rows)
        self._check_writable()

        async def here() -> Result:
            return await super(RoutedSession, self)._alone(parsed, params, max_rows)

        async def there(remote: Remote, request: str) -> Result:
            self._refuse_temp(parsed)
            return await remote.execute(parsed.sql, params, max_rows, request)

        return await self._write(here, there)

    def _refuse_temp(self, parsed: Parsed) -> None:
        if parsed.temp:
            raise HaError(
                Code.UNSUPPORTED,
                "TEMP objects are on this node, and the leader runs this statement",
                hint="connect to the leader for it, or read the rows first",
            )

    async def undo(
        self,
        mode: Mode,
        since: Since,
        rows: Mapping[str, frozenset[int]] | None = None,
        *,
        dry_run: bool = False,
    ) -> UndoReport:
        await self._catch_up()

        async def here() -> UndoReport:
            return await super(RoutedSession, self).undo(mode, since, rows, dry_run=dry_run)

        if dry_run or self.status is not Status.IDLE:
            return await here()
        self._check_there()
        self._check_writable()
        return await self._write(
            here, lambda remote, request: remote.undo(mode, since, rows, request)
        )

    @asynccontextmanager
    async def history(self, since: Since) -> AsyncIterator[AsyncIterator[HistoryItem]]:
        await self._catch_up()
        async with super().history(since) as items:
            yield items

    async def _command(self, command: Command, sql: str, max_rows: int | None) -> Result:
        await self._catch_up()
        if command.verb not in _DATABASE_COMMANDS or self.status is not Status.IDLE:
            return await command.run(max_rows)

        asked: list[str] = []

        async def here() -> Result:
            return await self._unless_done(command, asked, lambda: command.run(max_rows))

        async def there(remote: Remote, request: str) -> Result:
            earlier = tuple(asked)
            asked.append(request)
            try:
                result = await self._unless_done(
                    command, earlier, lambda: remote.execute(sql, None, max_rows, request)
                )
            except LeaderLost as lost:
                if lost.not_run:
                    raise
                done = await self._settle_command(command, remote.leader, asked)
                if done is None:
                    raise
                if not done:
                    raise LeaderLost(lost.reason, not_run=True) from lost
                result = Result(Kind.COMMAND, command.verb)
            await self._until_known(command)
            return result

        return await self._write(here, there, settles=False)

    async def _unless_done(
        self, command: Command, earlier: Sequence[str], work: Callable[[], Awaitable[Result]]
    ) -> Result:
        """``work``, once more: what it finds done already may have been done by an earlier try."""
        assert command.carried_out is not None
        try:
            return await work()
        except HaError as error:
            if not earlier or error.code not in _DONE_ALREADY:
                raise
            if not await command.carried_out(earlier):
                raise
            return Result(Kind.COMMAND, command.verb)

    async def _until_known(self, command: Command) -> None:
        """Until this node too has made, or dropped, a database. It may be one that does not
        follow: then the leader has it alone."""
        assert command.database is not None
        database_id = parse_dsn(command.database).database_id
        with trio.move_on_after(self._database.options.staleness):
            while self._knows(database_id) is not (command.verb == "CREATE DATABASE"):  # noqa: ASYNC110
                # The catalogue's news come at their own time, and are told to nobody.
                await trio.sleep(_PAUSE / 2)

    def _knows(self, database_id: str) -> bool:
        try:
            self._find_database(database_id)
        except HaError:
            return False
        return True

    def cancel(self) -> None:
        if self._calling is not None:
            self._calling.cancel()
        else:
            super().cancel()

    async def aclose(self) -> None:
        remote, self._remote = self._remote, None
        if remote is not None:
            await remote.aclose()
        await super().aclose()

    # --- transactions ----------------------------------------------------------------

    async def _control(self, parsed: Parsed) -> Result:
        if parsed.transaction == "BEGIN" and self.status is Status.IDLE:
            if self._goes_away():
                begun = await self._begin_remote(parsed.sql)
                if begun is not None:
                    return begun
            elif self._forwarded and not self._leads:
                raise self._not_leader()
            if self._leads:
                await self._until_open()
            if self._routing.linearizable:
                await self._freshen()
        return await super()._control(parsed)

    async def _until_open(self) -> None:
        """A transaction that begins to read before this leader's term is open would be overtaken
        by the message that opens it."""
        with trio.move_on_after(self._cluster.wait):
            await self._database.committer.wait_open()

    async def begin_read_only(self) -> None:
        if self.status is Status.IDLE:
            await self._freshen()
        await super().begin_read_only()

    async def _savepoint(self, parsed: Parsed) -> Result:
        assert parsed.savepoint is not None
        if parsed.savepoint[0] == "BEGIN" and self.status is Status.IDLE and self._goes_away():
            begun = await self._begin_remote(parsed.sql)
            if begun is not None:
                return begun
        if parsed.savepoint[0] == "BEGIN" and self.status is Status.IDLE and self._leads:
            await self._until_open()
        return await super()._savepoint(parsed)

    async def _begin_remote(self, sql: str) -> Result | None:
        """Begin on the leader. None: this node has become it."""
        begun = await self._ask(lambda remote, _: remote.execute(sql, None, None, ""), keep=True)
        return None if isinstance(begun, _Here) else begun

    async def _take_writer(self) -> None:
        if self._turn is None and not self._leads:
            if self._routing.local or self._read_only:
                raise self._follower_reads_only()
            if self._forwarded:
                raise self._not_leader()
            raise HaError(
                Code.SERIALIZATION_FAILURE,
                "this node does not lead any more, and so cannot finish the transaction",
                hint="run it again from its beginning: it will be sent to the leader",
            )
        await super()._take_writer()

    async def _execute_in_remote(self, sql: str, params: Params, max_rows: int | None) -> Result:
        """A statement of a transaction that is with the leader."""
        self._check_there()
        self._refuse_across(sql)
        if (word := first_word(sql)) in ("CREATE", "PRAGMA"):
            parsed = await self._parse_loosely(sql)
            if parsed is not None and parsed.temp_ddl:
                raise HaError(
                    Code.UNSUPPORTED,
                    "TEMP objects cannot be made in a transaction that the leader runs",
                    hint="make them before BEGIN; they are on this node",
                )
            if word == "PRAGMA" and parsed is not None and parsed.session_pragma:
                assert parsed.pragma is not None
                if parsed.pragma[0] not in _ONLY_IN_TRANSACTION:
                    await super()._alone(parsed, params, max_rows)
                    self._pragmas[parsed.pragma[0]] = sql
        ends = word in ("COMMIT", "END", "RELEASE")
        request = self._new_request() if ends else ""
        return await self._in_remote(
            lambda remote: remote.execute(sql, params, max_rows, request), request
        )

    async def _parse_loosely(self, sql: str) -> Parsed | None:
        try:
            return self._open_own().connection.parse(sql)
        except HaError:
            return None  # the leader will say what is wrong
        finally:
            if not self._pinned:
                self._drop_unpinned()

    def _drop_unpinned(self) -> None:
        if self._own is not None and self._prepare_connection is None:
            self._own.connection.close()
            self._own = None

    async def _in_remote(self, work: Callable[[Remote], Awaitable[T]], request: str = "") -> T:
        """One call in the transaction. ``request``: it may be its end."""
        remote = self._remote
        assert remote is not None
        since = self._database.committer.applied
        try:
            return await self._call(remote, work)
        except LeaderLost as lost:
            self._remote = None
            await remote.aclose()
            if request and not lost.not_run:
                return cast(T, await self._settle_commit(remote, lost, request, since))
            error = HaError(
                Code.SERIALIZATION_FAILURE,
                "the transaction was rolled back: "
                + self._unreachable(remote.leader, lost).message,
                hint="run it again from its beginning",
            )
            if not request:
                self._aborted = error
            raise error from lost

    async def _settle_commit(
        self, remote: Remote, lost: LeaderLost, request: str, since: int
    ) -> Result:
        sequence = await self._settle(request, since)
        if sequence:
            self._wrote(sequence)
            return Result(Kind.COMMIT, "COMMIT")
        raise self._lost_write(remote.leader, lost, sequence, commit=True) from lost

    @asynccontextmanager
    async def _query_in_remote(self, sql: str, params: Params) -> AsyncIterator[Rows]:
        self._check_there()
        self._refuse_across(sql)
        rows = await self._in_remote(lambda remote: remote.query(sql, params))
        try:
            yield _FetchedRows(self, rows)
        finally:
            if self._remote is not None:
                await self._in_remote(lambda _: rows.aclose())

    def _refuse_across(self, sql: str) -> None:
        if "/*+" in sql and self._cross_shards is not None and self._cross_shards(sql) is not None:
            raise HaError(
                Code.UNSUPPORTED,
                "a cross-shard query cannot be part of a transaction that the leader runs",
                hint="commit first",
            )

    # --- reaching the leader ---------------------------------------------------------

    async def _write(
        self,
        here: Callable[[], Awaitable[T]],
        there: Callable[[Remote, str], Awaitable[T]],
        *,
        settles: bool = True,
    ) -> T:
        """A write that is a transaction of its own: by this node if it leads, else by the leader,
        waiting for one if there is none. ``settles``: the log names the request."""
        deadline = trio.current_time() + self._cluster.wait
        while True:
            if not self._leads:
                if self._forwarded:
                    raise self._not_leader()
                if self._routing.local:
                    raise self._follower_reads_only()
                answer = await self._ask(there, deadline=deadline, writes=True, settles=settles)
                if not isinstance(answer, _Here):
                    return answer
            try:
                return await here()
            except HaError as error:
                # Certain: it is not written. This node has just lost its office, or only got it.
                if error.code not in _ELSEWHERE or self._forwarded:
                    raise
                await self._pause(deadline, error)

    async def _ask(
        self,
        work: Callable[[Remote, str], Awaitable[T]],
        *,
        deadline: float | None = None,
        writes: bool = False,
        settles: bool = False,
        keep: bool = False,
    ) -> T | _Here:
        """One call to the leader, whoever that is by then. ``writes``: it may not be asked twice;
        ``keep``: it begins a transaction, which stays there."""
        if deadline is None:
            deadline = trio.current_time() + self._cluster.wait
        while True:
            leader = await self._find(deadline)
            if self._leads:
                return _HERE
            if not self._routing.forward:
                raise self._elsewhere(leader)
            request = self._new_request()
            since = self._database.committer.applied
            try:
                with self._interruptible():
                    remote = await self._cluster.forwarder.open(leader, self._carried())
            except LeaderLost as lost:
                await self._pause(deadline, self._unreachable(leader, lost))
                continue
            kept = False
            try:
                answer = await self._call(remote, lambda r: work(r, request))  # noqa: B023
                if keep and remote.status is Status.TRANSACTION:
                    self._remote = remote
                    kept = True
                return answer
            except LeaderLost as lost:
                if writes and not lost.not_run:
                    sequence = await self._settle(request, since) if settles else None
                    if sequence:
                        self._wrote(sequence)
                    if sequence != 0:
                        raise self._lost_write(leader, lost, sequence) from lost
                await self._pause(deadline, self._unreachable(leader, lost))
            except HaError as error:
                if error.code not in _ELSEWHERE:
                    raise
                await self._pause(deadline, self._refused(leader, error))
            finally:
                if not kept:
                    await remote.aclose()

    async def _call(self, remote: Remote, work: Callable[[Remote], Awaitable[T]]) -> T:
        self._calling = remote
        before = remote.txseq
        try:
            return await work(remote)
        finally:
            self._calling = None
            self._last_insert_id = remote.last_insert_id
            self._changes = remote.changes
            if remote.txseq != before:
                self._wrote(remote.txseq)
            if remote is self._remote and remote.status is Status.IDLE:
                self._remote = None
                await remote.aclose()

    def _new_request(self) -> str:
        return f"{self._database.runtime.random.getrandbits(64):016x}"

    def _wrote(self, sequence: int) -> None:
        self._txseq = sequence
        self._behind = max(self._behind, sequence)

    def _carried(self) -> Carried:
        prepare = self._prepare_connection
        context: Mapping[str, str] = prepare.context() if isinstance(prepare, HasContext) else {}
        return Carried(
            database_id=self._database.id,
            protocol=self.protocol,
            context=context,
            last_insert_id=self._last_insert_id,
            changes=self._changes,
            pragmas=tuple(self._pragmas.values()),
            linearizable=self._routing.linearizable,
        )

    async def _find(self, deadline: float) -> Leader:
        leadership = self._cluster.leadership
        leader = leadership.leader
        if leader is None:
            with self._interruptible():
                leader = await leadership.wait_for_leader(max(0.0, deadline - trio.current_time()))
            assert leader is not None
        return leader

    async def _pause(self, deadline: float, error: HaError) -> None:
        """Before another try; raises ``error`` when it is too late for one."""
        left = deadline - trio.current_time()
        if left <= 0:
            raise error
        with self._interruptible(), trio.move_on_after(min(left, _PAUSE)):
            await self._cluster.leadership.wait_for_change()

    # --- what became of it -----------------------------------------------------------

    async def _settle(self, request: str, since: int) -> int | None:
        """Where the log has the write; 0: certain that it never will; None: not known.

        Whoever leads confirms a position behind which the request cannot come any more: the same
        leader waits until it has ended, another one has opened a newer term. What the log holds
        up to there decides.
        """
        database = self._database
        if database.options.commit.asynchronous:
            return None  # what the leader has in its outbox may come at any time
        with trio.move_on_after(self._cluster.settle):
            while True:
                try:
                    _, position = await self._fence(request, database.id)
                    await database.committer.wait_applied(position)
                    transactions = database.history.transactions(since + 1, position)
                    async with closing(transactions) as found:
                        async for past in found:
                            if past.change_set.extra.get("request") == request:
                                return past.sequence
                    return 0
                except (HaError, LogError, LeaderLost):
                    await trio.sleep(_PAUSE)
        return None

    async def _settle_command(
        self, command: Command, asked_one: Leader, asked: Sequence[str]
    ) -> bool | None:
        """Was a database made, or dropped? None: not known, or not for certain.

        The catalogue says what was carried out. What it does not say will never come if the leader
        is still the one that was asked. Of another one it may come yet: to make the database
        again then is harmless, since both join one log; to drop it again is not, since it may
        have been made anew.
        """
        assert command.carried_out is not None
        with trio.move_on_after(self._cluster.settle):
            while True:
                try:
                    leader, _ = await self._fence(asked[-1], "")
                    if await command.carried_out(asked):
                        return True
                    certain = leader == asked_one or command.verb == "CREATE DATABASE"
                    return False if certain else None
                except (HaError, LogError, LeaderLost):
                    await trio.sleep(_PAUSE)
        return None

    async def _fence(self, request: str, database_id: str) -> tuple[Leader, int]:
        """Who confirms, and the position. ``database_id``: "" for the leader's default one."""
        cluster = self._cluster
        leader = await cluster.leadership.wait_for_leader(cluster.settle)
        if self._leads:
            return leader, await cluster.leadership.confirm(database_id or None)
        return leader, await cluster.forwarder.confirm(leader, database_id, request)

    # --- errors ----------------------------------------------------------------------

    def _lost_write(
        self, leader: Leader, lost: LeaderLost, sequence: int | None, *, commit: bool = False
    ) -> HaError:
        what = "the transaction" if commit else "the write"
        where = f"the leader {leader.name} at {leader.address}"
        if sequence is None:
            return HaError(
                Code.OUTCOME_UNKNOWN,
                f"{where} was lost before it answered, and the log does not say what became of"
                f" {what}: {lost.reason}",
                hint="look whether it is there before running it again",
            )
        if sequence == 0:
            return HaError(
                Code.SERIALIZATION_FAILURE,
                f"{where} was lost, and {what} is not in the log: {lost.reason}",
                hint="run it again from its beginning",
            )
        return HaError(
            Code.WRITTEN_NOT_APPLIED,
            f"{what} is in the log; {where} was lost before it could answer with the results:"
            f" {lost.reason}",
            hint="do not run it again",
            sequence=sequence,
        )

    def _unreachable(self, leader: Leader, lost: LeaderLost) -> HaError:
        return HaError(
            Code.UNAVAILABLE,
            f"the leader {leader.name} at {leader.address} is not in reach: {lost.reason}",
            hint="nothing was written; try again",
        )

    def _refused(self, leader: Leader, error: HaError) -> HaError:
        if error.code is Code.NO_LEADER:
            return error
        return HaError(
            Code.NO_LEADER,
            f"{leader.address} should lead, and does not: {error.message}",
            hint="nothing was written; try again",
        )

    def _leader_text(self) -> str:
        leader = self._cluster.leadership.leader
        return f"{leader.name} at {leader.address} does" if leader else "nobody does at the moment"

    def _not_leader(self) -> HaError:
        return HaError(Code.NOT_LEADER, f"this node does not lead: {self._leader_text()}")

    def _follower_reads_only(self) -> HaError:
        return HaError(
            Code.READ_ONLY,
            f"attempt to write here, and this node does not lead: {self._leader_text()}",
            hint="without local=true, and outside of BEGIN READ ONLY, it is sent to the leader",
        )

    def _elsewhere(self, leader: Leader) -> HaError:
        url = self._cluster.forwarder.url_of(leader)
        error = HaError(Code.NOT_LEADER, f"{leader.name} leads: write to {url}")
        error.leader = url
        return error


@runtime_checkable
class HasContext(Protocol):
    """A ``prepare_connection`` that can be made again on another node."""

    def context(self) -> Mapping[str, str]: ...


class _FetchedRows:
    """Rows that are with the leader, fetched in the session's transaction."""

    def __init__(self, session: RoutedSession, rows: RemoteRows) -> None:
        self._session = session
        self._rows = rows

    @property
    def columns(self) -> tuple[Column, ...]:
        return self._rows.columns

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        self._session.check_open()
        if self._session._remote is None:
            raise HaError(
                Code.NO_TRANSACTION, "the result was closed: the transaction that read it has ended"
            )
        return await self._session._in_remote(lambda _: self._rows.fetch(count))
