"""HTTP/2 of a connection: hypercorn's, mended."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypercorn.protocol.events import Body, EndBody, Trailers
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from priority.priority import MissingStreamError

from ha.wire.http.asgi import Message
from ha.wire.http.exchange import TAKEN

_STREAM_WINDOW = 512 * 1024
_CONNECTION_WINDOW = 16 * 2**20


class Http2(H2Protocol):
    """hypercorn's, with the flow control of HTTP/2, and without two ways in which one request
    took down everything.

    hypercorn acknowledges data before anybody wants it, and stops reading when a request has
    too much of it: then it does not hear the WINDOW_UPDATE either that an answer waits for. So
    data is acknowledged when the application has taken it. Reading never stops; what a client
    may send ahead is bounded by its windows.
    """

    def __init__(self, *common: Any) -> None:
        super().__init__(*common)
        settings = self.connection.local_settings
        initial = {h2.settings.SettingCodes(code): settings[code] for code in settings}
        initial[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = _STREAM_WINDOW
        self.connection.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self._trailed: set[int] = set()

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        await super().initiate(headers, settings)
        # All requests share this window: one whose data nobody takes must not use it up.
        self.connection.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        await self._flush()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                await self._take_data(event)
            elif isinstance(event, h2.events.RequestReceived) and self.context.terminated.is_set():
                # Certain not to have been looked at: it may be sent again.
                self.connection.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
                self.connection.close_connection()
            else:
                await super()._handle_events([event])
        await self._flush()

    async def _take_data(self, event: h2.events.DataReceived) -> None:
        acknowledge = partial(self._acknowledge, event.flow_controlled_length, event.stream_id)
        stream = self.streams.get(event.stream_id)
        if not isinstance(stream, HTTPStream) or stream.closed:
            # A websocket, or the rest of a request that was answered before its end.
            if stream is not None:
                await stream.handle(Body(stream_id=event.stream_id, data=event.data))
            acknowledge()
            return
        message: Message = {"type": "http.request", "body": event.data, "more_body": True}
        message[TAKEN] = acknowledge
        await stream.app_put(message)  # type: ignore[arg-type]  # ASGI's, with a key of ours

    async def stream_send(self, event: StreamEvent) -> None:
        """hypercorn ends a stream again after its trailers, which have ended it. To h2 that is an
        error that closes the stream both ways: what the client still sends is then answered by
        RST_STREAM, and it may take that for the answer."""
        if isinstance(event, EndBody) and event.stream_id in self._trailed:
            with suppress(MissingStreamError):
                self.priority.unblock(event.stream_id)
            await self.has_data.set()
            return
        await super().stream_send(event)
        if isinstance(event, Trailers) and event.stream_id in self.stream_buffers:
            self._trailed.add(event.stream_id)

    async def _send_data(self, stream_id: int) -> None:
        if stream_id not in self._trailed:
            await super()._send_data(stream_id)
            return
        self._trailed.discard(stream_id)
        await self.stream_buffers.pop(stream_id).close()
        self.priority.remove_stream(stream_id)

    def _acknowledge(self, length: int, stream_id: int) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self.connection.acknowledge_received_data(length, stream_id)

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        for name, value in request.headers:
            if name in (b":path", b":method") and not value.isascii():
                self.connection.reset_stream(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
                return
        await super()._create_stream(request)

    async def say_goodbye(self) -> None:
        """No further request is taken; the client can tell which were."""
        with suppress(h2.exceptions.ProtocolError):
            self.connection.close_connection()
        await self._flush()

    async def flush(self) -> None:
        """Send what has become due, such as a window that was opened."""
        await self._flush()
