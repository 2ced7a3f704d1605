"""``ha.v1.LeaderService``: what this node does for its followers, as long as it leads."""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import trio
from connectrpc.code import Code as GrpcStatus
from connectrpc.errors import ConnectError
from connectrpc.request import Headers, RequestContext

from ha.core.errors import Code, HaError
from ha.engine import api
from ha.engine.api import Rows, Statement, Status
from ha.engine.databases import Databases
from ha.engine.forwarding import Carried
from ha.engine.leadership import Role
from ha.engine.routing import RoutedSession
from ha.engine.session import Session
from ha.wire.grpc import leader_codec as codec
from ha.wire.grpc.call import Call as Running
from ha.wire.grpc.call import current_call
from ha.wire.grpc.leader_connect import LeaderService
from ha.wire.grpc.leader_pb import Call, ForwardRequest, ForwardResponse
from ha.wire.grpc.requests import Requests
from ha.wire.grpc.session import NOT_RUN

FORWARDED_BY = "ha-forwarded-by"
"""Request metadata: the process that forwards, so that one that reaches itself finds out."""
FIRST_ROWS = 256
_MOST_ROWS = 10_000
_PAGE_BYTES = 1 << 20
_CLOSE_SECONDS = 10.0
_REMEMBERED = 10_000

_log = logging.getLogger("ha.grpc")
T = TypeVar("T")

PrepareFor = Callable[[Mapping[str, str]], Callable[[Any], None]]
"""Makes what prepares a connection for a wire's statements, from what that wire has carried."""


class Forwarded(LeaderService):
    """``process``: of this node, new at each start; ``prepares``: by protocol."""

    def __init__(
        self,
        databases: Databases,
        process: str,
        prepares: Mapping[str, PrepareFor],
        shutdown: trio.Event,
    ) -> None:
        self.databases = databases
        self.process = process
        self.prepares = prepares
        self.shutdown = shutdown
        self.requests = RequestIds()

    def forward(
        self,
        request: AsyncIterator[ForwardRequest],
        ctx: RequestContext[ForwardRequest, ForwardResponse],
        /,
    ) -> AsyncIterator[ForwardResponse]:
        if ctx.request_headers.get(FORWARDED_BY, "") == self.process:
            raise ConnectError(
                GrpcStatus.FAILED_PRECONDITION,
                "this node forwards to itself: --leader-static must name the node that leads, and"
                " --leader-addr of each node its own address",
            )
        return _Conversation(self, current_call(), ctx.response_trailers).responses(request)


class RequestIds:
    """Which requests run, and which ones their followers have given up."""

    def __init__(self) -> None:
        self._running: dict[str, trio.Event] = {}
        self._abandoned: OrderedDict[str, None] = OrderedDict()
        self._unknown: OrderedDict[str, HaError] = OrderedDict()

    def begin(self, request_id: str) -> None:
        """Raises NOT_WRITTEN when its follower does not wait for it any more."""
        if request_id in self._abandoned:
            raise HaError(Code.NOT_WRITTEN, "the request was given up before it came")
        self._running[request_id] = trio.Event()

    def end(self, request_id: str, unknown: HaError | None = None) -> None:
        """``unknown``: this node does not know itself yet what became of it."""
        if unknown is not None:
            _remember(self._unknown, request_id, unknown)
        self._running.pop(request_id).set()

    async def abandon(self, request_id: str) -> None:
        """Return when it has ended, or will never begin. Raises OUTCOME_UNKNOWN while that does
        not say whether more will come of it."""
        _remember(self._abandoned, request_id, None)
        running = self._running.get(request_id)
        if running is not None:
            await running.wait()
        if request_id in self._unknown:
            raise self._unknown[request_id]


def _remember(ids: OrderedDict[str, T], request_id: str, what: T) -> None:
    ids[request_id] = what
    if len(ids) > _REMEMBERED:
        ids.popitem(last=False)


@dataclass(slots=True)
class _Open:
    """A result that is being read."""

    manager: AbstractAsyncContextManager[Rows]
    rows: Rows


class _Conversation:
    """One stream: sessions one after the other, exactly one response for each request."""

    def __init__(self, service: Forwarded, call: Running, trailers: Headers) -> None:
        self._service = service
        self._call = call
        self._trailers = trailers
        self._session: Session | None = None
        self._busy = False
        self._results: dict[int, _Open] = {}
        self._number = 0

    async def responses(
        self, messages: AsyncIterator[ForwardRequest]
    ) -> AsyncIterator[ForwardResponse]:
        requests = Requests(messages, self._interrupt, lambda r: r.call == Call.CANCEL)
        self._call.on_gone = self._interrupt
        self._call.nursery.start_soon(requests.read)
        self._call.nursery.start_soon(self._end_at_shutdown, requests)
        shutdown = self._service.shutdown
        try:
            while (request := await requests.next()) is not None:
                self._busy = True
                response = await self._answer(request, cancelled=requests.cancelled)
                self._busy = False
                if self._call.gone:
                    break
                yield response
                if shutdown.is_set():
                    self._end_if_idle(requests)
            if shutdown.is_set():
                self._trailers[NOT_RUN] = "true"
                raise ConnectError(GrpcStatus.UNAVAILABLE, "the node is shutting down")
        finally:
            self._call.on_gone = None
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_SECONDS):
                await requests.stop()
                await self._close()

    def _interrupt(self) -> None:
        if self._busy and self._session is not None:
            self._session.cancel()

    async def _end_at_shutdown(self, requests: Requests[ForwardRequest]) -> None:
        await self._service.shutdown.wait()
        if not self._busy:
            self._end_if_idle(requests)

    def _end_if_idle(self, requests: Requests[ForwardRequest]) -> None:
        if requests.idle and self._session is None:
            requests.end()

    # --- answers ---------------------------------------------------------------------

    async def _answer(self, request: ForwardRequest, *, cancelled: bool) -> ForwardResponse:
        response = ForwardResponse()
        state = self._session
        try:
            if cancelled and request.call != Call.CANCEL:
                raise HaError(Code.CANCELLED, "the statement was cancelled before it ran")
            if request.open is not None:
                await self._close()
                await self._begin(codec.decode_carried(request.open))
            state = self._session
            if request.call != Call.CANCEL:
                await self._run(request, response)
        except HaError as error:
            response.error = codec.encode_error(error)
        except codec.BadMessage as error:
            response.error = codec.encode_error(HaError(Code.BAD_REQUEST, str(error)))
        except Exception:
            mark = secrets.token_hex(6)
            _log.exception("a forwarded call failed", extra={"incident": mark})
            told = f"an internal error on the leader; its log has it as incident {mark}"
            response.error = codec.encode_error(HaError(Code.INTERNAL, told))
        state = self._session or state
        if state is not None:
            response.status = state.status.value
            response.txseq = state.txseq
            response.last_insert_id = state.last_insert_id
            response.changes = state.changes
            if state.status is Status.IDLE and not self._results:
                await self._close()
        return response

    async def _begin(self, carried: Carried) -> None:
        databases = self._service.databases
        if databases.cluster is None:
            raise HaError(
                Code.NOT_LEADER,
                "this node has no leader mode, so nothing may be forwarded to it",
                hint="start it with --leader-addr or --leader-static too",
            )
        prepare_for = self._service.prepares.get(carried.protocol)
        session = databases.session(
            carried.database_id,
            protocol="forwarded",
            prepare_connection=prepare_for(carried.context) if prepare_for is not None else None,
            forwarded=True,
        )
        assert isinstance(session, RoutedSession)
        session.restore(carried)
        self._session = session
        for pragma in carried.pragmas:
            await session.execute(pragma)

    async def _close(self) -> None:
        for number in tuple(self._results):
            await self._close_rows(number)
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    # --- calls -----------------------------------------------------------------------

    async def _run(self, request: ForwardRequest, response: ForwardResponse) -> None:
        if request.call == Call.CONFIRM:
            await self._confirm(request, response)
            return
        if request.call == Call.CLOSE:
            await self._close()
            return
        session = self._session
        if session is None:
            raise codec.BadMessage("there is no session open")
        if self._service.shutdown.is_set() and session.status is Status.IDLE:
            raise HaError(Code.NOT_LEADER, "the node is stopping")
        handle = _HANDLERS.get(request.call)
        if handle is None:
            if request.call != Call.NOTHING:
                raise codec.BadMessage(f"the call {request.call} is not known")
            return
        ids = self._service.requests
        if not request.request_id:
            await handle(self, session, request, response)
            return
        ids.begin(request.request_id)
        session.request_id = request.request_id
        unknown: HaError | None = None
        try:
            await handle(self, session, request, response)
        except HaError as error:
            unknown = error if error.code is Code.OUTCOME_UNKNOWN else None
            raise
        finally:
            session.request_id = ""
            ids.end(request.request_id, unknown)

    async def _confirm(self, request: ForwardRequest, response: ForwardResponse) -> None:
        cluster = self._service.databases.cluster
        if cluster is None or cluster.leadership.role is not Role.LEADER:
            raise HaError(Code.NOT_LEADER, "this node does not lead")
        if request.request_id:
            await self._service.requests.abandon(request.request_id)
        response.position = await cluster.leadership.confirm(request.database_id or None)

    async def _prepare(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        prepared = await session.prepare(_single(request).sql)
        response.prepared = codec.encode_prepared(prepared)

    async def _execute(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        one = _single(request)
        result = await session.execute(one.sql, one.params, max_rows=request.max_rows or None)
        response.results = [codec.encode_result(result)]

    async def _transaction(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        statements = [codec.decode_statement(s) for s in request.statements]
        results = await session.transaction(statements, max_rows=request.max_rows or None)
        response.results = [codec.encode_result(result) for result in results]

    async def _query(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        one = _single(request)
        manager = session.query(one.sql, one.params)
        rows = await manager.__aenter__()
        self._number += 1
        self._results[self._number] = _Open(manager, rows)
        try:
            await self._give(self._number, request.count or FIRST_ROWS, response)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._close_rows(self._number)
            raise
        response.results[0].columns = codec.encode_columns(rows.columns)

    async def _fetch(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        if request.rows not in self._results:
            raise HaError(Code.BAD_REQUEST, "there is no such open result to fetch from")
        await self._give(request.rows, request.count, response)

    async def _give(self, number: int, count: int, response: ForwardResponse) -> None:
        """The next rows, at most ``count``, and about a mebibyte of them."""
        open_rows = self._results[number]
        count = min(count, _MOST_ROWS)
        out: list[tuple[Any, ...]] = []
        size = 0
        done = False
        while len(out) < count and size < _PAGE_BYTES:
            step = min(64, count - len(out))
            rows = await open_rows.rows.fetch(step)
            out += rows
            size += sum(len(v) if isinstance(v, str | bytes) else 8 for r in rows for v in r)
            if len(rows) < step:
                done = True
                break
        response.results = [codec.encode_result(api.Result(api.Kind.READ, "", (), out))]
        response.rows = number
        response.done = done
        if done:
            await self._close_rows(number)

    async def _end_rows(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        await self._close_rows(request.rows)

    async def _close_rows(self, number: int) -> None:
        open_rows = self._results.pop(number, None)
        if open_rows is not None:
            await open_rows.manager.__aexit__(None, None, None)

    async def _undo(
        self, session: Session, request: ForwardRequest, response: ForwardResponse
    ) -> None:
        mode, since, rows = codec.decode_undo(request.undo)
        response.undo = codec.encode_report(await session.undo(mode, since, rows))


_Handler = Callable[[_Conversation, Session, ForwardRequest, ForwardResponse], Awaitable[None]]
_HANDLERS: Mapping[Call, _Handler] = {
    Call.PREPARE: _Conversation._prepare,
    Call.EXECUTE: _Conversation._execute,
    Call.TRANSACTION: _Conversation._transaction,
    Call.QUERY: _Conversation._query,
    Call.FETCH: _Conversation._fetch,
    Call.CLOSE_ROWS: _Conversation._end_rows,
    Call.UNDO: _Conversation._undo,
}


def _single(request: ForwardRequest) -> Statement:
    if len(request.statements) != 1:
        raise codec.BadMessage("the call takes one statement")
    return codec.decode_statement(request.statements[0])
