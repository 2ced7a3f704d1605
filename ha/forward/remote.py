"""The part of a session that runs on the leader: see :class:`ha.engine.forwarding.Remote`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import trio

from ha.core.since import Since
from ha.core.undo import Mode
from ha.core.values import Value
from ha.engine.api import Column, Params, Prepared, Result, Statement, Status, UndoReport
from ha.engine.forwarding import Carried, LeaderLost
from ha.engine.leadership import Leader
from ha.forward.channel import Channel
from ha.wire.grpc import leader_codec as codec
from ha.wire.grpc.leader_pb import Call, ForwardRequest, ForwardResponse

M = TypeVar("M")
R = TypeVar("R")

_ROWS = 1_000
"""Rows that are asked for at once, where the reader wants fewer."""


class RemoteSession:
    """``give_back`` takes the channel when the session is over, ``nursery`` sends cancels."""

    def __init__(
        self,
        leader: Leader,
        channel: Channel,
        carried: Carried,
        give_back: Callable[[Channel], None],
        nursery: trio.Nursery,
    ) -> None:
        self.leader = leader
        self.status = Status.IDLE
        self.txseq = 0
        self.last_insert_id = carried.last_insert_id
        self.changes = carried.changes
        self._channel: Channel | None = channel
        self._give_back = give_back
        self._nursery = nursery
        self._carried: Carried | None = carried
        self.open_rows = 0

    async def call(self, request: ForwardRequest) -> ForwardResponse:
        """Raises LeaderLost, HaError."""
        channel = self._channel
        if channel is None:
            raise LeaderLost("the connection was lost", not_run=True)
        if self._carried is not None:
            request.open = codec.encode_carried(self._carried)
        response = await channel.call(request)
        self._carried = None
        try:
            if response.status:
                self.status = codec.decode_status(response.status)
                self.txseq = response.txseq
                self.last_insert_id = response.last_insert_id
                self.changes = response.changes
            if response.error is not None:
                raise codec.decode_error(response.error)
        except codec.BadMessage as error:
            channel.abort()
            raise LeaderLost(str(error)) from error
        return response

    async def prepare(self, sql: str) -> Prepared:
        request = ForwardRequest(call=Call.PREPARE, statements=[codec.encode_statement(sql, None)])
        return self._read(codec.decode_prepared, (await self.call(request)).prepared)

    async def execute(
        self, sql: str, params: Params, max_rows: int | None, request_id: str
    ) -> Result:
        request = ForwardRequest(
            call=Call.EXECUTE,
            statements=[codec.encode_statement(sql, params)],
            max_rows=max_rows or 0,
            request_id=request_id,
        )
        (result,) = self.results(await self.call(request), 1)
        return result

    async def transaction(
        self, statements: Sequence[Statement], max_rows: int | None, request_id: str
    ) -> list[Result]:
        request = ForwardRequest(
            call=Call.TRANSACTION,
            statements=[codec.encode_statement(s.sql, s.params) for s in statements],
            max_rows=max_rows or 0,
            request_id=request_id,
        )
        return self.results(await self.call(request), len(statements))

    async def query(self, sql: str, params: Params) -> _Rows:
        request = ForwardRequest(call=Call.QUERY, statements=[codec.encode_statement(sql, params)])
        response = await self.call(request)
        (result,) = self.results(response, 1)
        return _Rows(self, response.rows, result, done=response.done)

    async def undo(
        self,
        mode: Mode,
        since: Since,
        rows: Mapping[str, frozenset[int]] | None,
        request_id: str,
    ) -> UndoReport:
        request = ForwardRequest(
            call=Call.UNDO, undo=codec.encode_undo(mode, since, rows), request_id=request_id
        )
        return self._read(codec.decode_report, (await self.call(request)).undo)

    def cancel(self) -> None:
        if self._channel is not None:
            self._channel.cancel(self._nursery)

    async def aclose(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if channel.broken or self.status is not Status.IDLE or self.open_rows:
            # Its end rolls back what is open, at once and without an answer to wait for.
            channel.abort()
        else:
            self._give_back(channel)

    def results(self, response: ForwardResponse, count: int) -> list[Result]:
        def read(message: ForwardResponse) -> list[Result]:
            if len(message.results) != count:
                raise codec.BadMessage(f"{len(message.results)} results for {count} statements")
            return [codec.decode_result(result) for result in message.results]

        return self._read(read, response)

    def _read(self, decode: Callable[[M], R], message: M) -> R:
        try:
            return decode(message)
        except codec.BadMessage as error:
            if self._channel is not None:
                self._channel.abort()
            raise LeaderLost(str(error)) from error


class _Rows:
    """An open result on the leader, some rows ahead of who reads it."""

    def __init__(self, remote: RemoteSession, number: int, first: Result, *, done: bool) -> None:
        self.columns: tuple[Column, ...] = first.columns
        self._remote = remote
        self._number = number
        self._waiting = deque(first.rows)
        self._done = done
        if not done:
            remote.open_rows += 1

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        while len(self._waiting) < count and not self._done:
            request = ForwardRequest(
                call=Call.FETCH, rows=self._number, count=max(count - len(self._waiting), _ROWS)
            )
            response = await self._remote.call(request)
            (result,) = self._remote.results(response, 1)
            self._waiting.extend(result.rows)
            if response.done:
                self._end()
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    async def aclose(self) -> None:
        if not self._done:
            self._end()
            await self._remote.call(ForwardRequest(call=Call.CLOSE_ROWS, rows=self._number))

    def _end(self) -> None:
        self._done = True
        self._remote.open_rows -= 1
