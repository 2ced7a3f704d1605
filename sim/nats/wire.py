"""The client's end of a simulated connection: it stands where nats-py stands in a node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from ha.log.dialer import NoConnection
from ha.log.endpoint import Endpoint
from ha.log.frames import Deliver
from ha.log.nats_client import discard
from sim.nats.commands import Command, Pub, Subscribe, TooLarge, Unsubscribe, cut
from sim.nats.core import Core, Peer
from sim.network import Link

Watcher = Callable[[str, str, bytes], bool]
"""``what, text, headers`` of each message that goes (``publish``, ``request``) or comes
(``ack``, ``answer``, ``deliver``); False if the process has died of it."""


def _nothing(what: str, text: str, headers: bytes) -> bool:
    return True


class SimDialer:
    """A :class:`ha.log.dialer.Dialer` for one process, on its link to a server."""

    def __init__(
        self,
        core: Core,
        link: Link,
        info: Callable[[str], dict[str, Any]],
        watch: Watcher = _nothing,
    ) -> None:
        self.core = core
        self.link = link
        self.info = info
        self.watch = watch

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        yield

    def wire(self) -> SimWire:
        return SimWire(self)


class SimWire:
    """A :class:`ha.log.dialer.Wire`."""

    backlog = 0

    def __init__(self, dialer: SimDialer) -> None:
        self._dialer = dialer
        self._link = dialer.link
        self._generation = -1
        self._peer: Peer | None = None
        self._deliver: Deliver = discard
        self._closed = ""
        self._tell: Callable[[str], None] = lambda reason: None
        self.info: dict[str, Any] = {}

    async def dial(self, endpoint: Endpoint, name: str, timeout: float) -> None:
        link = self._link
        with trio.move_on_after(timeout) as scope:
            try:
                await link.connect(endpoint.host, timeout)
            except OSError as error:
                raise NoConnection(str(error)) from error
        if scope.cancelled_caught:
            raise NoConnection(f"no connection within {timeout:g} s")
        self._generation = link.generation
        self.info = self._dialer.info(endpoint.host)
        core = self._dialer.core
        peer = self._peer = core.accept(self._send_down, self._kick, endpoint.host)
        link.on_break = self._lost
        link.on_end = lambda: core.leave(peer)

    def deliver_to(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def when_closed(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        if self._closed:
            tell(self._closed)

    def send(self, data: bytes) -> None:
        if self._closed:
            raise OSError(self._closed)
        try:
            for command in cut(data, self._dialer.core.max_payload):
                if isinstance(command, Pub) and not self._note_sending(command):
                    return
                self._link.to_server(partial(self._obey, command))
        except TooLarge:
            self._link.to_server(partial(self._kick, "maximum payload violation"))

    def _note_sending(self, command: Pub) -> bool:
        subject = command.subject
        what = "request" if subject.startswith(("$", "_")) else "publish"
        return self._dialer.watch(what, subject, command.headers)

    async def aclose(self) -> None:
        self._deliver = discard
        self._closed = self._closed or "closed"
        if self._generation == self._link.generation and self._link.connected:
            self._link.break_off("closed")
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self._closed = reason
            self._tell(reason)

    # --- the server's side -----------------------------------------------------------

    def _obey(self, command: Command) -> None:
        peer, core = self._peer, self._dialer.core
        assert peer is not None
        match command:
            case Pub():
                core.publish(peer, command.subject, command.reply, command.headers, command.payload)
            case Subscribe():
                core.subscribe(peer, command.sid, command.subject, command.queue)
            case Unsubscribe():
                core.unsubscribe(peer, command.sid, command.after)

    def _kick(self, reason: str) -> None:
        if self._peer is not None:
            self._dialer.core.leave(self._peer)
        if self._generation == self._link.generation:
            self._link.break_off(reason)

    def _send_down(
        self, sid: int, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        arrive = partial(self._arrive, sid, subject, reply, headers, payload)
        self._link.to_client(arrive, self._generation)

    def _arrive(self, sid: int, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if reply.startswith("$JS.ACK."):
            alive = self._dialer.watch("deliver", reply, headers)
        elif payload.startswith(b'{"stream":'):
            alive = self._dialer.watch("ack", payload.decode(), headers)
        else:
            alive = self._dialer.watch("answer", "", b"")
        if alive:
            self._deliver(sid, subject.encode(), reply.encode(), headers, payload)
