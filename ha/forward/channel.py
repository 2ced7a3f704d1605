"""A connection to the leader: one gRPC stream, calls on it one after the other."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress

import trio

from ha.core.errors import Code, HaError
from ha.dbapi.link import FAILED_PRECONDITION, UNAUTHENTICATED, UNIMPLEMENTED, Link, Lost
from ha.dbapi.sockets import readable, tune
from ha.engine.forwarding import LeaderLost
from ha.forward.target import Target
from ha.wire.grpc.leader_pb import Call, ForwardRequest, ForwardResponse

PATH = "/ha.v1.LeaderService/Forward"
_RECEIVE_BYTES = 256 * 1024
_LOOK_SECONDS = 0.05
_SILENCE, _PATIENCE = 5.0, 10.0
"""Seconds without a word before the leader is asked for one, and that it has for that."""
_REFUSALS = {
    UNAUTHENTICATED: "this node's --token must be the leader's",
    FAILED_PRECONDITION: None,
    UNIMPLEMENTED: "the leader must be a node with leader mode, of the same version",
}
"""Before anything was run, by gRPC's status."""
_CANCEL = ForwardRequest(call=Call.CANCEL).to_binary()


class Channel:
    """Make it with :func:`connect`. After LeaderLost it is of no more use."""

    def __init__(
        self, target: Target, stream: trio.abc.Stream, sock: trio.socket.SocketType, link: Link
    ) -> None:
        self.target = target
        self._stream = stream
        self._socket = sock
        self._link = link
        self._sending = trio.Lock()
        self._asking = False
        self._cancels = 0
        self.silence, self.patience = _SILENCE, _PATIENCE
        self.broken = False

    async def is_alive(self) -> bool:
        """Before the next call: is it certain that the leader has not ended it?"""
        if self.broken or self._link.lost:
            return False
        if readable(self._socket):  # type: ignore[arg-type]
            # Nothing was asked, so it is mostly the end; or a word of HTTP/2 or TLS.
            try:
                with trio.move_on_after(_LOOK_SECONDS):
                    self._link.feed(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        return not self._link.lost

    async def call(self, request: ForwardRequest) -> ForwardResponse:
        """Raises LeaderLost. When cancelled, the connection ends, and with it what runs there."""
        self._link.send(request.to_binary())
        self._asking = True
        try:
            data = await self._next()
            while self._cancels:
                self._cancels -= 1
                await self._next()
            return ForwardResponse.from_binary(data)
        except Lost as lost:
            self.abort()
            if lost.status in _REFUSALS:
                raise HaError(
                    Code.UNAVAILABLE,
                    f"{self.target.url} does not take what this node forwards: {lost.reason}",
                    hint=_REFUSALS[lost.status],
                ) from lost
            raise LeaderLost(lost.reason, not_run=lost.not_run) from lost
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.abort()
            raise LeaderLost(str(error) or "the connection was lost") from error
        except ValueError as error:
            self.abort()
            raise LeaderLost(f"its answer cannot be read: {error!r}") from error
        except BaseException:
            self.abort()
            raise
        finally:
            self._asking = False

    async def _next(self) -> bytes:
        while True:
            await self._flush()
            message = self._link.next_message()
            if message is not None:
                return message
            self._link.feed(await self._receive())

    async def _receive(self) -> bytes:
        """What comes next. A leader that is silent is asked whether it is there: statements may
        take long, but one that hangs, or is stopped, answers nothing."""
        with trio.move_on_after(self.silence):
            return bytes(await self._stream.receive_some(_RECEIVE_BYTES))
        self._link.ping()
        await self._flush()
        with trio.move_on_after(self.patience):
            return bytes(await self._stream.receive_some(_RECEIVE_BYTES))
        raise ConnectionError("it has given no sign of life")

    async def _flush(self) -> None:
        async with self._sending:
            data = self._link.data_to_send()
            if data:
                await self._stream.send_all(data)

    def cancel(self, nursery: trio.Nursery) -> None:
        """Interrupt the call that runs, from any task."""
        if self._asking and not self._link.lost:
            self._cancels += 1
            self._link.send(_CANCEL)
            nursery.start_soon(self._send_cancel)

    async def _send_cancel(self) -> None:
        with suppress(Lost, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            await self._flush()

    def abort(self) -> None:
        """Close at once, from any task: who waits for an answer is told."""
        if not self.broken:
            self.broken = True
            self._socket.close()


async def connect(
    target: Target, tls: ssl.SSLContext, metadata: Mapping[str, str], timeout: float
) -> Channel:
    """Raises LeaderLost: nothing was run."""
    try:
        with trio.fail_after(timeout):
            stream = await trio.open_tcp_stream(target.address.host, target.address.port)
            sock = stream.socket
            try:
                tune(sock)  # type: ignore[arg-type]
                secured: trio.abc.Stream = stream
                if target.secure:
                    ssl_stream = trio.SSLStream(
                        stream, tls, server_hostname=target.address.host, https_compatible=True
                    )
                    await ssl_stream.do_handshake()
                    secured = ssl_stream
                link = Link(
                    target.address, secure=target.secure, metadata=dict(metadata), path=PATH
                )
                return Channel(target, secured, sock, link)
            except BaseException:
                sock.close()
                raise
    except trio.TooSlowError as error:
        raise LeaderLost(f"no connection within {timeout:g} s", not_run=True) from error
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        reason = f"TLS: {cause}" if isinstance(cause, ssl.SSLError) else "the connection was lost"
        raise LeaderLost(reason, not_run=True) from error
    except OSError as error:
        raise LeaderLost(error.strerror or str(error), not_run=True) from error
