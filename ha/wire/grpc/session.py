"""One Query stream: a session, and exactly one response for each request."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import trio
from connectrpc.code import Code as Status
from connectrpc.errors import ConnectError
from connectrpc.request import Headers

from ha.core.errors import Code, HaError
from ha.core.naming import same_id
from ha.core.settings import format_size
from ha.core.values import Value
from ha.engine import api
from ha.engine.api import Kind, Params, Prepared, Routing, SessionApi, Sessions, Statement
from ha.store.parse import first_word
from ha.wire.grpc.call import Call
from ha.wire.grpc.requests import Requests
from ha.wire.grpc.responses import (
    Encoded,
    encode_error,
    encode_header,
    encode_result,
    session_state,
)
from ha.wire.grpc.results import Pages
from ha.wire.grpc.sql_pb import Begin, NamedValue, QueryRequest, QueryResponse, QueryType
from ha.wire.grpc.values import value_of

NOT_RUN = "ha-not-run"
"""Trailing metadata: requests without an answer were not run."""

_log = logging.getLogger("ha.grpc")

_PAGE_PATIENCE_SECONDS = 30.0
"""An open result holds a snapshot and one of --concurrent-queries; not for ever."""
_CLOSE_SECONDS = 10.0
_MOST_PAGE_BYTES = 64 * 2**20
_BATCH = "ha_batch"
_BEGIN = {Begin.DEFERRED: "BEGIN", Begin.IMMEDIATE: "BEGIN IMMEDIATE"}


@dataclass(frozen=True, slots=True)
class Limits:
    """In bytes: ``request`` of one message that comes, ``result`` of one that goes."""

    request: int = 128 * 2**20
    result: int = 4 * 2**20


class Conversation:
    """The session of one stream.

    ``trailers``: the metadata that ends the stream. ``txseq``: what the client presents, 0 for
    nothing; ``routing``: where its statements run.
    """

    def __init__(
        self,
        sessions: Sessions,
        call: Call,
        limits: Limits,
        shutdown: trio.Event,
        trailers: Headers,
        txseq: int = 0,
        routing: Routing = Routing(),  # noqa: B008 (it is frozen)
    ) -> None:
        self._sessions = sessions
        self._call = call
        self._limits = limits
        self._shutdown = shutdown
        self._trailers = trailers
        self._wanted = txseq
        self._routing = routing
        self._session: SessionApi | None = None
        self._chosen = False
        self._busy = False
        self._pages: Pages | None = None
        self._pages_expired = False

    async def responses(self, messages: AsyncIterator[QueryRequest]) -> AsyncIterator[Encoded]:
        """Raises ConnectError when the stream cannot go on."""
        requests = Requests(messages, self._interrupt, lambda r: r.type == QueryType.CANCEL)
        self._call.on_gone = self._interrupt
        self._call.nursery.start_soon(requests.read)
        self._call.nursery.start_soon(self._end_at_shutdown, requests)
        try:
            while (request := await self._next(requests)) is not None:
                self._busy = True
                response = await self._answer(request, cancelled=requests.cancelled)
                self._busy = False
                if self._call.gone:
                    break
                yield response
                if self._shutdown.is_set():
                    self._end_if_idle(requests)
            if self._shutdown.is_set():
                # All that was taken is answered: whatever else was sent may be sent elsewhere.
                self._trailers[NOT_RUN] = "true"
                raise ConnectError(Status.UNAVAILABLE, "the node is shutting down")
        finally:
            self._call.on_gone = None
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_SECONDS):
                await requests.stop()
                await self._close_pages()
                if self._session is not None:
                    await self._session.aclose()

    async def _next(self, requests: Requests[QueryRequest]) -> QueryRequest | None:
        if self._pages is not None:
            try:
                return await requests.next(_PAGE_PATIENCE_SECONDS)
            except trio.TooSlowError:
                await self._close_pages()
                self._pages_expired = True
        return await requests.next()

    def _interrupt(self) -> None:
        if self._busy and self._session is not None:
            self._session.cancel()

    async def _end_at_shutdown(self, requests: Requests[QueryRequest]) -> None:
        await self._shutdown.wait()
        if not self._busy:
            self._end_if_idle(requests)

    def _end_if_idle(self, requests: Requests[QueryRequest]) -> None:
        """What is begun may be finished; a new statement should meet another node."""
        open_ = self._session is not None and self._session.status is not api.Status.IDLE
        if requests.idle and not open_ and self._pages is None:
            requests.end()

    # --- answers ---------------------------------------------------------------------

    async def _answer(self, request: QueryRequest, *, cancelled: bool) -> Encoded:
        try:
            if request.type in (QueryType.PING, QueryType.CANCEL):
                return self._plain(request)
            if cancelled:
                raise HaError(Code.CANCELLED, "the statement was cancelled before it ran")
            if request.type == QueryType.FETCH:
                return await self._fetch(request)
            await self._close_pages()
            self._pages_expired = False
            return await self._run(request)
        except HaError as error:
            response = encode_error(error)
        except Exception:
            mark = secrets.token_hex(6)
            _log.exception("a statement failed in an unforeseen way", extra={"incident": mark})
            told = f"an internal error; the node's log has it as incident {mark}"
            response = encode_error(HaError(Code.INTERNAL, told))
        self._note(request, response)
        return Encoded(response.to_binary())

    def _plain(self, request: QueryRequest) -> Encoded:
        response = QueryResponse()
        self._note(request, response)
        return Encoded(response.to_binary())

    def _note(self, request: QueryRequest, response: QueryResponse) -> None:
        """What every response tells of the session."""
        session = self._session
        if session is not None:
            response.txseq = session.txseq
        if request.page_bytes:
            known = ""
            if self._is_chosen():
                ids = self._sessions.database_ids()
                known = ids[0] if session is None else session.database_id
            status = api.Status.IDLE if session is None else session.status
            response.session = session_state(status, known)

    async def _run(self, request: QueryRequest) -> Encoded:
        session = await self._open(request.replication_id)
        if request.begin != Begin.NONE and session.status is api.Status.IDLE:
            self._require_choice()
            await session.execute(_BEGIN.get(request.begin, "BEGIN"))
        if request.batch:
            return await self._run_batch(session, request)
        params = _params(request.params)
        sql = request.sql
        while True:
            prepared = await self._prepare(session, sql)
            if params is not None or not first_word(prepared.remaining):
                return await self._run_one(session, request, prepared, sql, params)
            # Several statements in one text, as migrations send them: one after the other.
            await session.execute(sql[: len(sql) - len(prepared.remaining)])
            sql = prepared.remaining

    async def _run_one(
        self,
        session: SessionApi,
        request: QueryRequest,
        prepared: Prepared,
        sql: str,
        params: Params,
    ) -> Encoded:
        if prepared.kind is Kind.READ:
            self._pages = await Pages.open(session.query(sql, params))
            return await self._fetch(request)
        result = await session.execute(sql, params)
        if prepared.kind is Kind.COMMAND:
            self._note_choice(prepared)
        response = QueryResponse(
            rows_affected=result.rows_affected, last_insert_id=result.last_insert_id
        )
        if not result.columns:
            self._note(request, response)
            return Encoded(response.to_binary())
        self._pages = Pages.of(result)
        try:
            return await self._fetch(request, response)
        except HaError as error:
            if error.code is Code.TOO_LARGE and prepared.kind is Kind.WRITE:
                error.message = f"the statement was carried out, but {error.message}"
            raise

    async def _fetch(self, request: QueryRequest, response: QueryResponse | None = None) -> Encoded:
        """The next page of what is open, or all of it."""
        pages = self._pages
        if pages is None:
            raise HaError(
                Code.BAD_REQUEST,
                f"the result was closed: {_PAGE_PATIENCE_SECONDS:.0f} s without a request"
                if self._pages_expired
                else "there is no open result to fetch from",
            )
        more = False
        try:
            if request.page_bytes:
                rows, more = await pages.page(min(request.page_bytes, _MOST_PAGE_BYTES))
            else:
                rows = await pages.all(self._limits.result)
        finally:
            if not more:
                await self._close_pages()
        if response is None:
            response = QueryResponse()
        response.more = more
        self._note(request, response)
        header = encode_header(pages.columns, declared_types=bool(request.page_bytes))
        encoded = encode_result(response, header, rows)
        if not request.page_bytes and len(encoded.data) > self._limits.result:
            raise HaError(
                Code.TOO_LARGE, f"the result is larger than {format_size(self._limits.result)}"
            )
        return encoded

    async def _run_batch(self, session: SessionApi, request: QueryRequest) -> Encoded:
        """One statement for many rows of parameters: all or none."""
        sql = request.sql
        prepared = await self._prepare(session, sql)
        if prepared.kind is not Kind.WRITE:
            raise HaError(
                Code.BAD_REQUEST, "a batch is for INSERT, UPDATE, DELETE and REPLACE alone"
            )
        statements = [Statement(sql, _params(one.params)) for one in request.batch]
        if session.status is api.Status.IDLE:
            results = await session.transaction(statements)
        else:
            results = await _in_savepoint(session, statements)
        response = QueryResponse(
            rows_affected=sum(result.rows_affected for result in results),
            last_insert_id=results[-1].last_insert_id,
        )
        self._note(request, response)
        return Encoded(response.to_binary())

    async def _close_pages(self) -> None:
        pages, self._pages = self._pages, None
        if pages is not None:
            await pages.close()

    # --- which database --------------------------------------------------------------

    async def _open(self, replication_id: str) -> SessionApi:
        """The session, on the database that is asked for, as new as the client has seen it."""
        session = self._session
        if session is None:
            session = self._sessions.session(replication_id or None, protocol="grpc")
            self._session = session
        elif replication_id and not same_id(replication_id, session.database_id):
            await session.use_database(replication_id)
        if replication_id or len(self._sessions.database_ids()) == 1:
            self._chosen = True  # and it stays so when another one is created
        if self._routing.linearizable:
            session.routing = self._routing
            self._routing = Routing()  # from now on the session's own
        if self._wanted:
            await session.wait_for(self._wanted)
            self._wanted = 0
        return session

    def _is_chosen(self) -> bool:
        return self._chosen or len(self._sessions.database_ids()) == 1

    async def _prepare(self, session: SessionApi, sql: str) -> Prepared:
        """Raises BAD_REQUEST when it is not known which of several databases is meant."""
        if self._is_chosen():
            return await session.prepare(sql)
        try:
            prepared = await session.prepare(sql)
        except HaError:
            prepared = None
        if prepared is None or prepared.kind is not Kind.COMMAND or _of_one(prepared):
            self._require_choice()
        assert prepared is not None
        return prepared

    def _require_choice(self) -> None:
        if not self._is_chosen():
            known = ", ".join(self._sessions.database_ids())
            raise HaError(
                Code.BAD_REQUEST,
                f"this node serves several databases ({known}): say which one is meant",
                hint="in replication_id, or with SET DATABASE TO …",
            )

    def _note_choice(self, prepared: Prepared) -> None:
        if prepared.verb in ("SET", "USE"):
            self._chosen = True
        elif prepared.verb == "UNSET":
            self._chosen = False


def _of_one(command: Prepared) -> bool:
    """Is it a command about one database?"""
    return command.verb in ("HISTORY", "UNDO", "UNDOE", "UNDOT")


async def _in_savepoint(session: SessionApi, statements: Sequence[Statement]) -> list[api.Result]:
    await session.execute(f"SAVEPOINT {_BATCH}")
    try:
        results = [await session.execute(s.sql, s.params) for s in statements]
    except HaError:
        if session.status is api.Status.TRANSACTION:
            await session.execute(f"ROLLBACK TO {_BATCH}")
            await session.execute(f"RELEASE {_BATCH}")
        raise
    await session.execute(f"RELEASE {_BATCH}")
    return results


def _params(values: Sequence[NamedValue]) -> Params:
    """By name if the first one has one, else by ordinal from 1. Raises BAD_PARAMETERS."""
    if not values:
        return None
    if values[0].name:
        named: dict[str, Value] = {}
        for given in values:
            name = given.name.lstrip(":@$")
            if not name:
                raise HaError(
                    Code.BAD_PARAMETERS, "the first parameter has a name, and another has none"
                )
            named[name] = value_of(given.value, f"the parameter {name!r}")
        return named
    if all(given.ordinal == 0 for given in values):
        return [value_of(v.value, f"parameter {n}") for n, v in enumerate(values, 1)]
    count = len(values)
    placed: dict[int, Value] = {}
    for given in values:
        n = given.ordinal
        if not 1 <= n <= count or n in placed:
            raise HaError(
                Code.BAD_PARAMETERS,
                f"{count} parameters without names have the ordinals 1 to {count}, not {n}"
                + (" twice" if n in placed else ""),
            )
        placed[n] = value_of(given.value, f"parameter {n}")
    return [placed[n] for n in range(1, count + 1)]
