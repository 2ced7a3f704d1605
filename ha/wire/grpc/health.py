"""The health service of gRPC: is the node, or a service of it, able to work?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from ha.wire.grpc.call import current_call
from ha.wire.grpc.health_connect import Health
from ha.wire.grpc.health_pb import HealthCheckRequest, HealthCheckResponse

_WATCH_SECONDS = 1.0
_Status = HealthCheckResponse.ServingStatus
_Context = RequestContext[HealthCheckRequest, HealthCheckResponse]


class HealthService(Health):
    """``not_ready``: why the node should get no work, None if it should.

    ``services``: the names that are asked for, beside the empty one, which is the whole node.
    """

    def __init__(
        self, services: frozenset[str], not_ready: Callable[[], str | None], shutdown: trio.Event
    ) -> None:
        self._services = services | {""}
        self._not_ready = not_ready
        self._shutdown = shutdown

    async def check(self, request: HealthCheckRequest, ctx: _Context, /) -> HealthCheckResponse:
        if request.service not in self._services:
            raise ConnectError(Code.NOT_FOUND, f"there is no service {request.service!r}")
        return HealthCheckResponse(status=self._status())

    async def watch(
        self, request: HealthCheckRequest, ctx: _Context, /
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status now, and again whenever it has changed: looked at once a second."""
        if request.service not in self._services:
            yield HealthCheckResponse(status=_Status.SERVICE_UNKNOWN)
            return
        told = None
        call = current_call()
        while not call.gone:
            status = self._status()
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            if self._shutdown.is_set():
                return
            with trio.move_on_after(_WATCH_SECONDS):
                await self._shutdown.wait()

    def _status(self) -> HealthCheckResponse.ServingStatus:
        if self._shutdown.is_set() or self._not_ready() is not None:
            return _Status.NOT_SERVING
        return _Status.SERVING
