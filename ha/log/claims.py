"""One live node of a name: who serves a database under a name answers when asked for it.

A question and an answer over plain NATS, so that nothing stays behind when a node crashes.
A node asks first; if nobody answers it begins to listen, and asks once more, for one that
did the same at the same moment: of two such the one with the smaller instance id stays.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress

import trio

from ha.log import nats_wire as wire
from ha.log.api import LogError, NodeNameTaken
from ha.log.client import Client
from ha.log.connection import Connection, Disconnected, NoResponders

_log = logging.getLogger("ha.log")

_ANSWER_TIMEOUT = 2.0  # a live node may be busy with a long statement


class Claim:
    """The claim of ``instance`` on a durable name. ``run`` it after :meth:`acquire`."""

    def __init__(self, client: Client, *, stream: str, name: str, node: str, instance: str) -> None:
        self._client = client
        self._subject = f"_HA.node.{stream}.{name}"
        self._node = node
        self._instance = instance
        self._stream = stream
        self._held = False
        self._connection: Connection | None = None
        self._sid = 0
        self._rival: str | None = None
        self._conflict = trio.Event()

    async def acquire(self) -> None:
        """Raises NodeNameTaken, or LogError when the broker does not answer."""
        connection = self._client.require()
        try:
            reply = await connection.request(self._subject, b"", timeout=_ANSWER_TIMEOUT)
        except NoResponders:
            pass
        except LogError:
            if connection.is_closed:
                raise
            # Somebody listens and says nothing: a machine that lost its power, whose
            # connection the server has not given up yet.
            _log.warning("the last holder of the name %s does not answer", self._node)
        else:
            other = "unknown"
            with suppress(ValueError, KeyError, TypeError):
                other = str(json.loads(reply.payload)["instance"])
            if other != self._instance:
                raise self._taken(other)
        self._listen(connection)

    def _taken(self, other: str) -> NodeNameTaken:
        return NodeNameTaken(
            f"another live node named {self._node!r} (instance {other}) replicates the same "
            f"database on the stream {self._stream}: give one of them another --name"
        )

    def _listen(self, connection: Connection) -> None:
        if self._connection is not connection:
            self._connection = connection
            self._sid = connection.subscribe(self._subject, self._on_message)
            self._announce()

    def _announce(self) -> None:
        self._say(self._subject.encode())

    def _say(self, subject: bytes) -> None:
        words = json.dumps({"instance": self._instance, "held": self._held}).encode()
        assert self._connection is not None
        with suppress(Disconnected):
            self._connection.write(wire.publish(subject, b"", b"", words))

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if reply:
            self._say(reply)
            return
        # Somebody announces itself: it starts at this moment too, or comes back with the name
        # from a network that was broken.
        with suppress(ValueError, KeyError, TypeError):
            other = json.loads(payload)
            instance, held = str(other["instance"]), bool(other["held"])
            if instance == self._instance:
                return
            if (held, self._instance) > (self._held, instance):
                self._rival = instance
                self._conflict.set()
            else:
                self._announce()  # so that it learns that it is the one to go

    def release(self) -> None:
        """Answer no more. :meth:`run` must have been cancelled."""
        if self._connection is not None and self._sid:
            self._connection.unsubscribe(self._sid)
        self._connection = None

    async def run(self) -> None:
        """Answer for ever, on each new connection. Raises NodeNameTaken."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            await self._conflict.wait()
            nursery.cancel_scope.cancel()
        assert self._rival is not None
        raise self._taken(self._rival)

    async def _follow(self) -> None:
        while True:
            connection = await self._client.wait_up()
            with suppress(Disconnected):
                self._listen(connection)
                self._held = True
            await connection.closed.wait()
