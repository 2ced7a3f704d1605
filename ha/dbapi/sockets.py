"""Settings of TCP sockets, and a look at them, for both faces of the driver."""

from __future__ import annotations

import select
import socket

_KEEPALIVE_SECONDS = 15


def tune(sock: socket.socket) -> None:
    """Small messages go at once; a host that vanished is noticed within a minute."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 1000 * (_KEEPALIVE_SECONDS + 15)),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def readable(sock: socket.socket) -> bool:
    """Has something come, or the end? Waits for nothing."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
