"""The catalogue in NATS: a key-value bucket beside the stream, that keeps one value a key.

The format is that of NATS' own key-value store, so that ``nats kv`` reads it.
Source: ADR-8 (key-value store).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import trio

from ha.log import js_api
from ha.log.bucket import bucket_config, bucket_consumer, bucket_stream
from ha.log.client import Client
from ha.log.js_api import Api, JetStreamError
from ha.log.ordered import OrderedConsumer

_ACK_TIMEOUT = 10.0


class JetStreamCatalogue:
    """A :class:`ha.log.api.Catalogue`. ``start`` runs a task in the broker's nursery."""

    def __init__(
        self,
        client: Client,
        api: Api,
        *,
        stream: str,
        replicas: int,
        start: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._client = client
        self._api = api
        self._bucket = f"{stream}_DATABASES"
        self._stream = bucket_stream(self._bucket)
        self._replicas = replicas
        self._start = start
        self._made = False

    async def put(self, key: str, word: bytes) -> None:
        await self._make()
        token = base64.urlsafe_b64encode(key.encode("utf-8", "surrogateescape")).decode()
        subject = f"$KV.{self._bucket}.{token}"
        connection = self._client.require()
        js_api.answer_of(await connection.request(subject, word, timeout=_ACK_TIMEOUT), subject)

    async def read(self) -> list[bytes]:
        await self._make()
        consumer = self._consumer()
        try:
            async with aclosing(consumer.rest()) as entries:
                return [entry.payload async for entry in entries]
        finally:
            consumer.close()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[_Watch]:
        await self._make()
        consumer = self._consumer()
        try:
            yield _Watch(consumer)
        finally:
            consumer.close()

    def _consumer(self) -> OrderedConsumer:
        consumer = bucket_consumer(self._client, self._api, self._bucket)
        self._start(consumer.run)
        return consumer

    async def _make(self) -> None:
        if self._made:
            await trio.lowlevel.checkpoint()
            return
        config = bucket_config(self._bucket, self._replicas, direct=True)
        try:
            await self._api.retry(f"STREAM.CREATE.{self._stream}", config)
        except JetStreamError as error:
            if error.code != js_api.NAME_EXISTS:
                raise
        self._made = True


class _Watch:
    def __init__(self, consumer: OrderedConsumer) -> None:
        self._consumer = consumer

    async def receive(self) -> Sequence[bytes]:
        return [entry.payload for entry in await self._consumer.receive()]
