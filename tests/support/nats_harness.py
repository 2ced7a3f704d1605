"""What the conformance suite of a NATS server needs: connections, and words for its requests.

Nothing here knows which server answers: :class:`RealNats` is ``nats-server`` itself, and a
simulated one gives its own :class:`NatsHarness`.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from ha.log import nats_wire as wire
from ha.log.client import Client
from ha.log.connection import Connection
from ha.log.endpoint import parse_urls
from tests.conftest import NatsProcess

PATIENCE = 10.0
"""Seconds for what must happen: a busy machine is no failure."""

_random = random.SystemRandom()


class NatsHarness(ABC):
    """One server with JetStream."""

    @asynccontextmanager
    async def client(self, name: str = "a") -> AsyncIterator[Connection]:
        """A connection that is logged in, until the block is left."""
        client = self.new_client(name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run)
            nursery.start_soon(client.run)
            with trio.fail_after(PATIENCE):
                connection = await client.wait_up()
            yield connection
            nursery.cancel_scope.cancel()

    @abstractmethod
    def new_client(self, name: str) -> Client:
        """Not running yet."""

    async def run(self) -> None:
        """What the server needs beside each client, until cancelled: nothing, as a rule."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def restart(self) -> None:
        """Stop it in order, and start it again on the same store. Connections are lost."""


class RealNats(NatsHarness):
    def __init__(self, server: NatsProcess) -> None:
        self._server = server

    def new_client(self, name: str) -> Client:
        return Client(parse_urls(self._server.url), name=name, rng=random.SystemRandom())

    async def restart(self) -> None:
        self._server.terminate()
        self._server.start()


def token() -> str:
    """A name, or a word of a subject, that nobody else has."""
    return f"T{_random.getrandbits(48):x}"


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


# --- messages --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    subject: str
    reply: str
    headers: dict[str, str]
    status: int
    description: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the ack subject of a message from a consumer says."""

    stream: str
    consumer: str
    delivered: int  # how often, this time included
    stream_seq: int
    consumer_seq: int
    time_ns: int
    pending: int

    @classmethod
    def of(cls, message: Message) -> Delivery:
        words = message.reply.split(".")
        assert len(words) == 9, f"not an ack subject: {message}"
        assert words[:2] == ["$JS", "ACK"], f"not an ack subject: {message}"
        return cls(words[2], words[3], *(int(word) for word in words[4:]))


class Inbox:
    """A subscription. Its messages, statuses among them, in the order of their arrival."""

    def __init__(self, connection: Connection, subject: str = "", *, queue: str = "") -> None:
        self.subject = subject or f"_INBOX.{token()}"
        self._connection = connection
        self._messages: deque[Message] = deque()
        self._news = trio.Event()
        what = f"{self.subject} {queue}" if queue else self.subject  # as SUB takes them
        self.sid = connection.subscribe(what, self._take)

    def _take(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        message = Message(
            subject.decode(),
            reply.decode(),
            wire.decode_headers(headers),
            wire.status(headers),
            wire.description(headers) if headers else "",
            payload,
        )
        self._messages.append(message)
        self._news.set()

    async def next(self, timeout: float = PATIENCE) -> Message:
        with trio.move_on_after(timeout):
            while not self._messages:
                self._news = trio.Event()
                await self._news.wait()
        assert self._messages, f"nothing came on {self.subject} within {timeout:g} s"
        return self._messages.popleft()

    async def some(self, count: int) -> list[Message]:
        return [await self.next() for _ in range(count)]

    async def payloads(self, count: int) -> list[bytes]:
        return [message.payload for message in await self.some(count)]

    async def nothing(self, seconds: float = 0.15) -> None:
        """Assert that nothing arrives for so long."""
        await trio.sleep(seconds)
        assert not self._messages, f"on {self.subject} came {self._messages[0]}"

    def arrived(self) -> list[Message]:
        """All that is here and was not taken."""
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def limit(self, count: int) -> None:
        """UNSUB with a maximum: the subscription ends with its message number ``count``."""
        self._connection.write(b"UNSUB %d %d\r\n" % (self.sid, count))

    def close(self) -> None:
        self._connection.unsubscribe(self.sid)


# --- requests --------------------------------------------------------------------------


async def api(connection: Connection, subject: str, request: object = None) -> dict[str, Any]:
    """The answer to ``$JS.API.<subject>``; what failed has an ``error`` in it."""
    body = b"" if request is None else json.dumps(request).encode()
    reply = await connection.request(f"$JS.API.{subject}", body, timeout=PATIENCE)
    answer: dict[str, Any] = json.loads(reply.payload)
    return answer


async def publish(
    connection: Connection,
    subject: str,
    payload: bytes = b"x",
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The PubAck, with an ``error`` in it when the message was refused."""
    reply = await connection.request(subject, payload, headers=headers, timeout=PATIENCE)
    ack: dict[str, Any] = json.loads(reply.payload)
    return ack


def publish_with_reply(
    connection: Connection,
    subject: str,
    reply: str,
    payload: bytes = b"",
    headers: dict[str, str] | None = None,
) -> None:
    block = wire.encode_headers(headers) if headers else b""
    connection.write(wire.publish(subject.encode(), reply.encode(), block, payload))


async def ask(
    connection: Connection,
    subject: str,
    payload: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Message:
    """One answer as it is, a status too."""
    inbox = Inbox(connection)
    publish_with_reply(connection, subject, inbox.subject, payload, headers)
    answer = await inbox.next()
    inbox.close()
    return answer


class Stream:
    """A stream of one test, with a name of its own, which begins its subjects as well."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name

    @classmethod
    async def create(cls, connection: Connection, **config: object) -> Stream:
        """Over all subjects that begin with its name, unless ``config`` says other ones."""
        stream = cls(connection, token())
        answer = await stream.api("CREATE", stream.config(**config))
        assert "error" not in answer, answer
        return stream

    def config(self, **config: object) -> dict[str, object]:
        return {"name": self.name, "subjects": [f"{self.name}.>"], **config}

    def subject(self, word: str) -> str:
        return f"{self.name}.{word}"

    async def api(self, verb: str, request: object = None) -> dict[str, Any]:
        """``STREAM.<verb>.<name>``."""
        return await api(self.connection, f"STREAM.{verb}.{self.name}", request)

    async def update(self, **changes: object) -> dict[str, Any]:
        config = (await self.api("INFO"))["config"]
        return await self.api("UPDATE", {**config, **changes})

    async def state(self, request: object = None) -> dict[str, Any]:
        state: dict[str, Any] = (await self.api("INFO", request))["state"]
        return state

    async def numbers(self) -> tuple[int, int, int, int]:
        """Messages, first and last sequence, and how many between them are deleted."""
        state = await self.state()
        deleted = int(state.get("num_deleted", 0))
        return state["messages"], state["first_seq"], state["last_seq"], deleted

    async def publish(
        self, word: str, payload: bytes = b"x", headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        return await publish(self.connection, self.subject(word), payload, headers)

    async def fill(self, *words: str) -> None:
        """A message on each subject, whose payload is its place: ``1``, ``2``, …"""
        for place, word in enumerate(words, start=1):
            ack = await self.publish(word, str(place).encode())
            assert "error" not in ack, ack

    async def get(self, **request: object) -> dict[str, Any]:
        """``STREAM.MSG.GET``: the message, or the whole answer if there is none."""
        answer = await self.api("MSG.GET", request)
        message: dict[str, Any] = answer.get("message", answer)
        return message

    async def consumer(self, name: str = "", /, **config: object) -> dict[str, Any]:
        """The answer to ``CONSUMER.CREATE``. A consumer with a name is durable here.

        ``action`` is that of the request, unless it is None; all else is its configuration.
        """
        action = config.pop("action", None)
        if name:
            config = {"name": name, "durable_name": name, **config}
        return await self.create_consumer(name, config, action)

    async def create_consumer(
        self, name: str, config: dict[str, object], action: object = None
    ) -> dict[str, Any]:
        request: dict[str, object] = {"stream_name": self.name, "config": config}
        if action is not None:
            request["action"] = action
        path = f"{self.name}.{name}" if name else self.name
        return await api(self.connection, f"CONSUMER.CREATE.{path}", request)

    async def info(self, consumer: str) -> dict[str, Any]:
        return await self.consumer_api("INFO", consumer)

    async def consumer_api(
        self, verb: str, consumer: str, request: object = None
    ) -> dict[str, Any]:
        path = f"CONSUMER.{verb}.{self.name}.{consumer}"
        return await api(self.connection, path, request)

    def pull(self, consumer: str, inbox: Inbox, **request: object) -> None:
        """Ask for messages; they and the statuses come to ``inbox``."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{consumer}"
        body = json.dumps(request).encode() if request else b""
        publish_with_reply(self.connection, subject, inbox.subject, body)

    async def fetch(self, consumer: str, count: int) -> list[Message]:
        """Wait for so many messages."""
        inbox = Inbox(self.connection)
        self.pull(consumer, inbox, batch=count, expires=ns(PATIENCE))
        messages = await inbox.some(count)
        inbox.close()
        assert all(not message.status for message in messages), messages
        return messages

    async def fetch_now(self, consumer: str, count: int = 100) -> list[Message]:
        """What there is now, at most ``count``."""
        inbox = Inbox(self.connection)
        self.pull(consumer, inbox, batch=count, no_wait=True)
        messages: list[Message] = []
        while len(messages) < count:
            message = await inbox.next()
            if message.status:
                assert message.status in (404, 408), message
                break
            messages.append(message)
        inbox.close()
        return messages


async def acknowledge(connection: Connection, message: Message, word: bytes = b"+ACK") -> None:
    """A double ack: the server says that it took it."""
    assert (await ask(connection, message.reply, word)).payload == b""
