"""How a connection ends that the server ends: with its reason, which arrives.

Closing a socket while bytes of the client wait unread in it makes the kernel send RST in place of
the orderly end, and what was sent last may be lost by that. So the server says that it will send
no more, and reads on until the client has closed too, or has had time enough.

Source: RFC 9293, 3.6.1; RFC 2525, 2.17; RFC 9112, 9.6, which says the same of HTTP.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from ha.wire.postgres import backend
from ha.wire.postgres.channel import RECEIVE_SIZE, Channel

_LAST_WORDS = 1.0
"""Seconds that a client may take to read what is told last."""
_LINGER = 0.5
"""Seconds that it may take then to close: a shutdown waits for idle clients no longer."""


async def say_farewell(channel: Channel, notice: backend.Notice) -> None:
    """Tell why the connection ends; :func:`linger` before it is closed. Raises Closed."""
    if channel.torn:
        return  # it would be taken for a part of the message that was cut off
    channel.parting = True
    channel.write(backend.error_response(notice))
    with trio.move_on_after(_LAST_WORDS):
        await channel.flush()


async def linger(stream: trio.SocketStream) -> None:
    """``stream`` is the TCP connection below any TLS. Takes its time when cancelled, too."""
    with trio.move_on_after(_LINGER, shield=True), suppress(trio.BrokenResourceError, OSError):
        await stream.send_eof()
        while await stream.receive_some(RECEIVE_SIZE):
            pass
