"""What a connection does, without I/O: sessions, transactions, pages, failover."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ha.core.errors import Code
from ha.core.values import Value
from ha.dbapi import link as grpc
from ha.dbapi.address import Address, Options
from ha.dbapi.errors import (
    ConnectionLost,
    DatabaseError,
    Error,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    class_for,
)
from ha.dbapi.link import Link, Lost
from ha.dbapi.messages import (
    CANCEL,
    FETCH,
    PING,
    Bound,
    Reply,
    decode_reply,
    encode_statement,
)
from ha.dbapi.steps import Check, Close, Open, Receive, Send, Steps
from ha.wire.grpc.sql_pb import Begin, QueryResponse, SessionState

_Transaction = SessionState.Transaction

# Never preceded by a BEGIN of ours: what controls transactions itself, what a transaction
# refuses, and pragmas, some of which do nothing in one.
_ALONE = re.compile(
    r"(?:BEGIN|COMMIT|END|ROLLBACK|SHOW|SET|UNSET|USE|HISTORY|UNDO[ET]?|PRAGMA|ATTACH|DETACH"
    r"|VACUUM|(?:CREATE|DROP)\s+DATABASE)\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$)|;)*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")
_WRITES = re.compile(r"\b(INSERT|REPLACE|UPDATE|DELETE)\b", re.IGNORECASE)


@dataclass(slots=True)
class Outcome:
    """What a statement gave. ``verb``: its first word. ``more``: further rows are with the node."""

    verb: str
    columns: list[tuple[str, str]] | None
    rows: deque[tuple[Value, ...]] = field(default_factory=deque)
    rows_affected: int = 0
    last_insert_id: int = 0
    more: bool = False


class Core:
    """One connection's state. Its generators are run one at a time."""

    def __init__(self, options: Options, *, autocommit: bool = False) -> None:
        self.options = options
        self.autocommit = autocommit
        self.begin = Begin.DEFERRED
        self.closed = False
        self.database = options.database
        self.server_version = ""
        self.reconnected = 0
        """How often the session was lost and made anew."""
        self._link: Link | None = None
        self._transaction = _Transaction.NONE
        self._lost_transaction: str | None = None
        self._txseq = {_key(options.database): options.txseq} if options.txseq else {}
        self._paged: Outcome | None = None
        self._asking = False
        self._cancels = 0
        self._addresses = list(options.addresses)
        random.shuffle(self._addresses)  # many clients with one list: spread over the nodes

    # --- what it knows ---------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        return self._transaction is not _Transaction.NONE

    @property
    def txseq(self) -> int:
        """The last sequence that this connection wrote or was given, on its database."""
        return self._txseq.get(_key(self.database), 0)

    @property
    def address(self) -> Address | None:
        """The node that it is connected to."""
        return self._link.address if self._link is not None else None

    def cancellation(self) -> bytes:
        """The bytes that interrupt the running statement, to be sent from another task; empty
        when none runs."""
        if self._link is None or self._link.lost or not self._asking:
            return b""
        self._cancels += 1
        self._link.send(CANCEL)
        return self._link.data_to_send()

    def check_open(self) -> None:
        if self.closed:
            raise InterfaceError("the connection is closed")

    # --- the session -----------------------------------------------------------------

    def connect(self) -> Steps[None]:
        """Open a session on the first node that answers. Raises OperationalError."""
        reasons: list[str] = []
        for address in list(self._addresses):
            try:
                yield from self._connect_to(address)
            except (Lost, OSError, DatabaseError) as error:
                yield from self.drop()
                if isinstance(error, Lost) and error.status == grpc.UNAUTHENTICATED:
                    raise OperationalError(
                        f"{address}: {error.reason}", code=Code.UNAUTHORIZED
                    ) from error
                reasons.append(f"{address}: {_reason(error)}")
                # Next time another one first.
                self._addresses.remove(address)
                self._addresses.append(address)
            except BaseException:
                yield from self.drop()
                raise
            else:
                return
        raise OperationalError("cannot connect to " + "; ".join(reasons), code=Code.UNAVAILABLE)

    def _connect_to(self, address: Address) -> Steps[None]:
        options = self.options
        yield Open(address, options.tls, options.connect_timeout)
        metadata = {}
        if options.token:
            metadata["authorization"] = f"Bearer {options.token}"
        if self.txseq:
            metadata["ha-txseq"] = str(self.txseq)
        if options.consistency:
            metadata["ha-consistency"] = options.consistency
        self._link = link = Link(address, secure=options.tls is not None, metadata=metadata)
        self._cancels = 0
        # An empty statement makes sure of the database; without one there is only the node.
        first = encode_statement("", database=self.database) if self.database else PING
        reply = yield from self._exchange(link, first, options.connect_timeout)
        if link.headers is None or "ha-version" not in link.headers:
            raise Lost("what answers there does not know this driver's requests")
        self.server_version = link.headers["ha-version"]
        self._note(reply.message)
        _raise_error(reply.message)

    def drop(self) -> Steps[None]:
        """Close the connection at once; the node rolls back what is open."""
        link, self._link = self._link, None
        self._paged = None
        if self.in_transaction:
            self._transaction = _Transaction.NONE
            self._lost_transaction = "its connection was lost"
        if link is not None:
            link.feed(b"")
        yield Close()

    def close(self) -> Steps[None]:
        self.closed = True
        yield from self.drop()

    def _exchange(self, link: Link, request: bytes, timeout: float | None) -> Steps[Reply]:
        """Send one request and receive its response."""
        link.send(request)
        self._asking = True
        try:
            data = yield from self._next(link, timeout)
            while self._cancels:
                # A cancellation is a request too, answered after the statement that it stopped.
                self._cancels -= 1
                yield from self._next(link, timeout)
        finally:
            self._asking = False
        return decode_reply(data)

    def _next(self, link: Link, timeout: float | None) -> Steps[bytes]:
        while True:
            data = link.data_to_send()
            if data:
                yield Send(data)
            message = link.next_message()
            if message is not None:
                return message
            link.feed((yield Receive(timeout)))

    def _note(self, message: QueryResponse) -> None:
        session = message.session
        if session is not None:
            self._transaction = session.transaction
            self.database = session.replication_id
        if message.txseq:
            self._txseq[_key(self.database)] = max(message.txseq, self.txseq)

    # --- statements ------------------------------------------------------------------

    def execute(self, sql: str, params: Bound = ()) -> Steps[Outcome]:
        message = encode_statement(sql, params, begin=self._begin_for(sql))
        return (yield from self._statement(sql, message))

    def execute_many(self, sql: str, batch: Sequence[Bound]) -> Steps[Outcome]:
        """All in one request: one round trip, and all or none."""
        if not batch:
            return Outcome("", None)
        message = encode_statement(sql, batch=batch, begin=self._begin_for(sql))
        return (yield from self._statement(sql, message))

    def _statement(self, sql: str, message: bytes) -> Steps[Outcome]:
        yield from self.drain()
        again = not self.in_transaction and _only_reads(sql)
        reply = yield from self._ask(message, again=again)
        outcome = Outcome(
            verb_of(sql),
            reply.columns,
            deque(reply.rows),
            rows_affected=reply.message.rows_affected,
            last_insert_id=reply.message.last_insert_id,
            more=reply.message.more,
        )
        if outcome.more:
            self._paged = outcome
        return outcome

    def fetch(self, outcome: Outcome) -> Steps[None]:
        """The next page of ``outcome``, if there is one."""
        if not outcome.more:
            return
        if outcome is not self._paged:
            outcome.more = False
            raise OperationalError(
                "the rest of the result is lost: the connection was", code=Code.UNAVAILABLE
            )
        try:
            yield from self._living_link(new=False)
            reply = yield from self._ask(FETCH, again=False)
        except BaseException:
            self._paged = None
            outcome.more = False
            raise
        outcome.rows.extend(reply.rows)
        outcome.more = reply.message.more
        if not outcome.more:
            self._paged = None

    def drain(self) -> Steps[None]:
        """Fetch what is left of an open result, which the next statement would close."""
        while self._paged is not None:
            yield from self.fetch(self._paged)

    def forget(self, outcome: Outcome) -> None:
        """Nobody wants the rest of ``outcome``."""
        if outcome is self._paged:
            self._paged = None
        outcome.more = False
        outcome.rows.clear()

    def commit(self) -> Steps[None]:
        yield from self._end("COMMIT")

    def rollback(self) -> Steps[None]:
        self._lost_transaction = None
        if self._paged is not None:
            self.forget(self._paged)
        with suppress(ConnectionLost):  # then it was rolled back with the connection
            yield from self._end("ROLLBACK")

    def _end(self, sql: str) -> Steps[None]:
        self._raise_lost()
        if self.in_transaction:
            yield from self.drain()
            yield from self._ask(encode_statement(sql), again=False)

    def ping(self) -> Steps[None]:
        """Raises OperationalError when the session is gone and no node can be reached."""
        yield from self._ask(PING, again=True)

    def _begin_for(self, sql: str) -> Begin:
        if self.autocommit or self.in_transaction:
            return Begin.NONE
        bare = _bare(sql)
        return Begin.NONE if not bare or _ALONE.match(bare) else self.begin

    def _raise_lost(self) -> None:
        reason, self._lost_transaction = self._lost_transaction, None
        if reason is not None:
            raise ConnectionLost(
                f"the transaction was rolled back: {reason}",
                code=Code.NOT_WRITTEN,
                hint="run it again from its beginning",
            )

    def _ask(self, message: bytes, *, again: bool) -> Steps[Reply]:
        """One request, on a new connection if there is none any more.

        ``again``: it may be asked on another node when nobody knows whether it was run.
        """
        self.check_open()
        self._raise_lost()
        tries = 1 + len(self._addresses)
        while True:
            link = yield from self._living_link()
            in_transaction = self.in_transaction
            try:
                reply = yield from self._exchange(link, message, self.options.timeout)
            except TimeoutError as error:
                yield from self._give_up()
                raise OperationalError(
                    f"no answer within {self.options.timeout:g} s; the connection was dropped",
                    code=Code.TIMEOUT
                    if again or (in_transaction and message != _COMMIT)
                    else Code.OUTCOME_UNKNOWN,
                ) from error
            except (Lost, OSError) as error:
                yield from self.drop()
                if in_transaction:
                    self._lost_transaction = None
                    raise _lost_in_transaction(link, message, error) from error
                not_run = isinstance(error, Lost) and error.not_run
                tries -= 1
                if not tries or not (again or not_run):
                    raise _lost_alone(link, error, not_run) from error
                continue
            except BaseException:
                # Cancelled in the middle: the answer would come to whoever asks next.
                yield from self._give_up()
                raise
            self._note(reply.message)
            _raise_error(reply.message)
            return reply

    def _living_link(self, *, new: bool = True) -> Steps[Link]:
        """The link, or a ``new`` one if it has ended. Raises ConnectionLost for a transaction
        that was open on it, and where no new one is wanted."""
        link = self._link
        if link is not None and not link.lost and (yield Check()):
            # Nothing was asked, so it is mostly the end: better known before than after.
            try:
                link.feed((yield Receive(self.options.connect_timeout)))
            except OSError:
                link.feed(b"")
        if link is not None and not link.lost:
            return link
        if link is not None:
            yield from self.drop()
            self._raise_lost()
        if not new:
            raise ConnectionLost(
                "the rest of the result was lost with the connection", code=Code.UNAVAILABLE
            )
        self.reconnected += 1
        yield from self.connect()
        assert self._link is not None
        return self._link

    def _give_up(self) -> Steps[None]:
        had = self.in_transaction
        yield from self.drop()
        self._lost_transaction = "a statement in it was given up" if had else None


def _key(database: str) -> str:
    """Ids are accepted with and without ``.db``."""
    return database.removesuffix(".db")


_COMMIT = encode_statement("COMMIT")


def _lost_in_transaction(link: Link, message: bytes, error: Exception) -> ConnectionLost:
    if message == _COMMIT and not (isinstance(error, Lost) and error.not_run):
        return ConnectionLost(
            f"the connection to {link.address} was lost while the transaction was committed: "
            f"{_reason(error)}",
            code=Code.OUTCOME_UNKNOWN,
            hint="look whether it is there before running it again",
        )
    return ConnectionLost(
        f"the connection to {link.address} was lost, the transaction was rolled back: "
        f"{_reason(error)}",
        code=Code.NOT_WRITTEN,
        hint="run it again from its beginning",
    )


def _lost_alone(link: Link, error: Exception, not_run: bool) -> ConnectionLost:
    return ConnectionLost(
        f"the connection to {link.address} was lost: {_reason(error)}",
        code=Code.NOT_WRITTEN if not_run else Code.OUTCOME_UNKNOWN,
        hint=None if not_run else "if it was a write, look whether it is there",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, Lost):
        return error.reason
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _bare(sql: str) -> str:
    """The statement without white space and comments before it."""
    match = _LEADING.match(sql)
    return sql[match.end() :] if match else sql


def verb_of(sql: str) -> str:
    """The first keyword in upper case; behind WITH the one that does the work, where one does."""
    word = _WORD.match(_bare(sql))
    verb = word[0].upper() if word else ""
    if verb == "WITH":
        written = _WRITES.search(sql)
        return written[1].upper() if written else "SELECT"
    return verb


def _only_reads(sql: str) -> bool:
    """Certain: it changes nothing, so that it may be asked again elsewhere."""
    return verb_of(sql) in ("SELECT", "VALUES", "EXPLAIN") and ";" not in sql.rstrip().rstrip(";")


def _raise_error(message: QueryResponse) -> None:
    if not message.error:
        return
    detail = message.error_detail
    if detail is None:
        raise ProgrammingError(message.error)
    error: type[Error] = class_for(detail.code)
    raise error(
        detail.message or message.error,
        code=detail.code,
        hint=detail.hint or None,
        detail=detail.detail or None,
        sequence=detail.sequence or None,
        position=detail.position or None,
    )
