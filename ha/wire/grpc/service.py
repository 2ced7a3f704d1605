"""``sql.v1.DatabaseService``: sessions, lists of databases, and whole databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import trio
from connectrpc.code import Code as Status
from connectrpc.errors import ConnectError
from connectrpc.request import Headers, RequestContext

from ha import __version__
from ha.core.errors import Code, HaError
from ha.engine.api import Routing
from ha.engine.commands import LOCAL, is_linearizable
from ha.engine.database import Database
from ha.engine.databases import Databases
from ha.log.api import LogError
from ha.store.copying import copy_chunks
from ha.wire.grpc.call import current_call
from ha.wire.grpc.session import Conversation, Limits
from ha.wire.grpc.sql_connect import DatabaseService
from ha.wire.grpc.sql_pb import (
    DataSourceNamesRequest,
    DataSourceNamesResponse,
    DownloadRequest,
    DownloadResponse,
    LatestSnapshotRequest,
    LatestSnapshotResponse,
    QueryRequest,
    QueryResponse,
    ReplicationIDsRequest,
    ReplicationIDsResponse,
)

TXSEQ = "ha-txseq"
"""Request metadata: the sequence that the session must not read behind."""
CONSISTENCY = "ha-consistency"
"""Request metadata: ``local`` or ``linearizable``, for the session's reads."""
VERSION = "ha-version"
"""Response metadata: a node that knows the fields of ours, and its version."""
PIECE_BYTES = 64 * 1024

STATUS = {
    Code.BAD_REQUEST: Status.INVALID_ARGUMENT,
    Code.UNAUTHORIZED: Status.UNAUTHENTICATED,
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.TOO_LARGE: Status.RESOURCE_EXHAUSTED,
    Code.BUSY: Status.RESOURCE_EXHAUSTED,
    Code.UNAVAILABLE: Status.UNAVAILABLE,
    Code.NOT_LEADER: Status.UNAVAILABLE,
    Code.NO_LEADER: Status.UNAVAILABLE,
    Code.STALE: Status.UNAVAILABLE,
    Code.UNSUPPORTED: Status.UNIMPLEMENTED,
}


def connect_error(error: HaError) -> ConnectError:
    """For methods whose answers have no room for an error."""
    text = error.message if error.hint is None else f"{error.message} ({error.hint})"
    return ConnectError(STATUS.get(error.code, Status.INTERNAL), text)


class Service(DatabaseService):
    """``shutdown``: sessions without a transaction end when it is set."""

    def __init__(self, databases: Databases, limits: Limits, shutdown: trio.Event) -> None:
        self._databases = databases
        self._limits = limits
        self._shutdown = shutdown

    def query(
        self,
        request: AsyncIterator[QueryRequest],
        ctx: RequestContext[QueryRequest, QueryResponse],
        /,
    ) -> AsyncIterator[QueryResponse]:
        ctx.response_headers[VERSION] = __version__
        conversation = Conversation(
            self._databases,
            current_call(),
            self._limits,
            self._shutdown,
            ctx.response_trailers,
            _wanted_txseq(ctx.request_headers),
            _wanted_routing(ctx.request_headers),
        )
        # The codecs of ours take the encoded form, which no generated signature knows.
        return cast("AsyncIterator[QueryResponse]", conversation.responses(request))

    async def data_source_names(
        self,
        request: DataSourceNamesRequest,
        ctx: RequestContext[DataSourceNamesRequest, DataSourceNamesResponse],
        /,
    ) -> DataSourceNamesResponse:
        return DataSourceNamesResponse(dsn=[d.store.path for d in self._databases.all()])

    async def replication_i_ds(
        self,
        request: ReplicationIDsRequest,
        ctx: RequestContext[ReplicationIDsRequest, ReplicationIDsResponse],
        /,
    ) -> ReplicationIDsResponse:
        return ReplicationIDsResponse(replication_id=self._databases.database_ids())

    async def download(
        self,
        request: DownloadRequest,
        ctx: RequestContext[DownloadRequest, DownloadResponse],
        /,
    ) -> AsyncIterator[DownloadResponse]:
        """A consistent copy, made before the first piece is sent: a slow client delays nobody."""
        database = self._find(request.replication_id)
        try:
            copy = await trio.to_thread.run_sync(database.store.copy)
        except HaError as error:
            raise connect_error(error) from error
        try:
            async for chunk in copy_chunks(copy.path, database.runtime.run_in_thread):
                for start in range(0, len(chunk), PIECE_BYTES):
                    yield DownloadResponse(data=chunk[start : start + PIECE_BYTES])
        finally:
            copy.remove()

    async def latest_snapshot(
        self,
        request: LatestSnapshotRequest,
        ctx: RequestContext[LatestSnapshotRequest, LatestSnapshotResponse],
        /,
    ) -> AsyncIterator[LatestSnapshotResponse]:
        database = self._find(request.replication_id)
        try:
            if await database.broker.snapshot_headers(database.id) is None:
                raise HaError(Code.NOT_FOUND, f"there is no snapshot of {database.id!r} yet")
            async for chunk in database.broker.get_snapshot(database.id):
                for start in range(0, len(chunk), PIECE_BYTES):
                    yield LatestSnapshotResponse(data=chunk[start : start + PIECE_BYTES])
        except HaError as error:
            raise connect_error(error) from error
        except LogError as error:
            raise ConnectError(Status.UNAVAILABLE, str(error)) from error

    def _find(self, replication_id: str) -> Database:
        """Raises ConnectError: NOT_FOUND, or INVALID_ARGUMENT when none of several is named."""
        known = self._databases.database_ids()
        if not replication_id and len(known) > 1:
            raise ConnectError(
                Status.INVALID_ARGUMENT,
                f"this node serves several databases ({', '.join(known)}): "
                "name one in replication_id",
            )
        try:
            return self._databases.get(replication_id or None)
        except HaError as error:
            raise connect_error(error) from error


def _wanted_routing(headers: Headers) -> Routing:
    try:
        return Routing(linearizable=is_linearizable(headers.get(CONSISTENCY, LOCAL)))
    except HaError as error:
        raise connect_error(error) from error


def _wanted_txseq(headers: Headers) -> int:
    text = headers.get(TXSEQ, "")
    if not text:
        return 0
    if not text.isdecimal() or not text.isascii() or len(text) > 20 or int(text) >= 2**64:
        raise ConnectError(
            Status.INVALID_ARGUMENT,
            f"{TXSEQ} must be a sequence as the node answered it: a whole number",
        )
    return int(text)
