"""One gRPC stream on one HTTP/2 connection, without I/O: bytes in, bytes out, messages between.

Sources: gRPC over HTTP2 (doc/PROTOCOL-HTTP2.md of the gRPC project), RFC 9113. The HTTP/2 is
h2's. A connection carries one session only, so that its end is the session's end and no other
session can hold it up.
"""

from __future__ import annotations

from collections import deque
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from ha.dbapi.address import Address

QUERY = "/sql.v1.DatabaseService/Query"
_WINDOW = 16 * 2**20
_STREAM = 1

OK, UNKNOWN, FAILED_PRECONDITION, UNIMPLEMENTED, UNAVAILABLE, UNAUTHENTICATED = 0, 2, 9, 12, 14, 16
"""The gRPC status codes that matter here."""


class Lost(Exception):
    """The link cannot go on. ``status``: gRPC's, as the node sent it, None if it sent none.

    ``not_run``: the node said that it has run nothing that it has not answered.
    """

    def __init__(self, reason: str, status: int | None = None, *, not_run: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.not_run = not_run


class Link:
    """A session's stream. After :class:`Lost` it is of no more use."""

    def __init__(
        self, address: Address, *, secure: bool, metadata: dict[str, str], path: str = QUERY
    ) -> None:
        self.address = address
        self.headers: dict[str, str] | None = None
        self._answered = False
        self._lost: Lost | None = None
        self._unsent = bytearray()
        self._received = bytearray()
        self._messages: deque[bytes] = deque()
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW)
        self._h2.send_headers(
            _STREAM,
            [
                (":method", "POST"),
                (":scheme", "https" if secure else "http"),
                (":path", path),
                (":authority", str(address)),
                ("te", "trailers"),
                ("content-type", "application/grpc+proto"),
                ("user-agent", "ha-dbapi"),
                *metadata.items(),
            ],
        )

    def ping(self) -> None:
        """Ask for a sign of life: :meth:`feed` gets one soon if the node is there."""
        if self._lost is None:
            self._h2.ping(b"ha-alive")

    def send(self, message: bytes) -> None:
        """Queue a message; :meth:`data_to_send` gives its bytes as the node has room."""
        self._unsent += b"\0" + len(message).to_bytes(4, "big") + message

    def data_to_send(self) -> bytes:
        """What may be sent now, maybe nothing. Raises Lost."""
        if self._lost is None and self._unsent:
            try:
                self._send_what_fits()
            except h2.exceptions.ProtocolError as error:
                self._lose(Lost(f"HTTP/2: {error}"))
        return self._h2.data_to_send()

    def _send_what_fits(self) -> None:
        room = self._h2.local_flow_control_window(_STREAM)
        frame = self._h2.max_outbound_frame_size
        sent = 0
        while room > 0 and sent < len(self._unsent):
            piece = self._unsent[sent : sent + min(room, frame)]
            self._h2.send_data(_STREAM, bytes(piece))
            sent += len(piece)
            room -= len(piece)
        del self._unsent[:sent]

    def feed(self, data: bytes) -> None:
        """What came from the node; empty at the end of the connection."""
        if not data:
            self._lose(Lost("the node closed the connection"))
            return
        if not self._answered and data.startswith(b"HTTP/1"):
            self._lose(Lost("what answers there does not speak HTTP/2"))
            return
        self._answered = True
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._lose(Lost(f"what answers there does not speak HTTP/2: {error}"))
            return
        for event in events:
            self._handle(event)

    def next_message(self) -> bytes | None:
        """The next message; None while it has not come. Raises Lost when none will."""
        if self._messages:
            return self._messages.popleft()
        if self._lost is not None:
            raise self._lost
        return None

    @property
    def lost(self) -> bool:
        return self._lost is not None

    # --- what happens ----------------------------------------------------------------

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self._on_headers(_decoded(event.headers))
            case h2.events.TrailersReceived():
                self._on_trailers(_decoded(event.headers))
            case h2.events.DataReceived():
                self._received += event.data
                self._split()
                if not self.lost:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, _STREAM)
            case h2.events.StreamEnded():
                self._lose(Lost("the node ended the session without a word"))
            case h2.events.StreamReset():
                self._lose(Lost(f"the node reset the session ({_name(event.error_code)})"))
            case h2.events.ConnectionTerminated() if event.error_code:
                self._lose(Lost(f"the node ended the connection ({_name(event.error_code)})"))

    def _on_headers(self, headers: dict[str, str]) -> None:
        self.headers = headers
        if "grpc-status" in headers:
            self._on_trailers(headers)
        elif headers.get(":status") != "200":
            self._lose(Lost(f"what answers there is no node: HTTP status {headers[':status']}"))
        elif not headers.get("content-type", "").startswith("application/grpc"):
            self._lose(Lost("what answers there is no node: it does not speak gRPC"))

    def _on_trailers(self, trailers: dict[str, str]) -> None:
        text = trailers.get("grpc-status", "")
        status = int(text) if text.isdecimal() else UNKNOWN
        message = unquote(trailers.get("grpc-message", "")) or "the node ended the session"
        self._lose(Lost(message, status, not_run="ha-not-run" in trailers))

    def _split(self) -> None:
        start = 0
        while len(self._received) - start >= 5:
            size = int.from_bytes(self._received[start + 1 : start + 5], "big")
            if self._received[start]:
                self._lose(Lost("the node compressed its answer, which nobody asked for"))
                return
            if len(self._received) - start - 5 < size:
                break
            self._messages.append(bytes(self._received[start + 5 : start + 5 + size]))
            start += 5 + size
        del self._received[:start]

    def _lose(self, lost: Lost) -> None:
        if self._lost is None:
            self._lost = lost


def _decoded(headers: object) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in headers:  # type: ignore[attr-defined]
        out[_text(name)] = _text(value)
    return out


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _name(code: int | h2.errors.ErrorCodes | None) -> str:
    return code.name if isinstance(code, h2.errors.ErrorCodes) else str(code)
