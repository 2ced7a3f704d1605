"""Buckets of keys and values in NATS, each change checked by its revision.

The format is that of NATS' own key-value store, so that ``nats kv`` reads them.
Source: ADR-8 (key-value store).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from ha.log import js_api
from ha.log.api import Entry, KeyEntry, KeyWatch, LogError, NotSent, Refused, WrongRevision
from ha.log.bucket import bucket_config, bucket_consumer, bucket_stream
from ha.log.client import Client
from ha.log.js_api import Api, JetStreamError
from ha.log.ordered import OrderedConsumer

_OPERATION = "KV-Operation"
_KEY = "Ha-Key"  # a consumer's messages, as we read them, do not say their subject
_GONE = {"DEL", "PURGE"}
_WRONG_LAST_SOMEWHERE = 10164  # another change of the key is under way: nothing was stored


class JetStreamKeys:
    """A :class:`ha.log.api.KeyValue`. ``start`` runs a task in the broker's nursery; ``max_age``:
    seconds after which the server forgets what was not set again, 0 for never; ``timeout``:
    seconds for each request."""

    def __init__(
        self,
        client: Client,
        api: Api,
        *,
        bucket: str,
        replicas: int,
        start: Callable[[Callable[[], Awaitable[None]]], None],
        max_age: float = 0.0,
        timeout: float = 2.0,
    ) -> None:
        self._client = client
        self._api = api
        self._bucket = bucket
        self._stream = bucket_stream(bucket)
        self._replicas = replicas
        self._start = start
        self._max_age = max_age
        self._timeout = timeout
        self._made = False

    async def get(self, key: str) -> KeyEntry | None:
        try:
            answer = await self._api.call(
                f"STREAM.MSG.GET.{self._stream}",
                {"last_by_subj": self._subject(key)},
                timeout=self._timeout,
            )
        except JetStreamError as error:
            if error.code == js_api.STREAM_NOT_FOUND:
                self._made = False
            elif error.code != js_api.MESSAGE_NOT_FOUND:
                raise
            return None
        return self._entry(key, js_api.entry_of(answer["message"]))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._set(key, value, {js_api.EXPECT_HEADER: str(revision)})

    async def put(self, key: str, value: bytes) -> int:
        return await self._set(key, value, {})

    async def delete(self, key: str) -> None:
        await self._set(key, b"", {_OPERATION: "DEL"})

    async def _set(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        await self._make()
        subject = self._subject(key)
        headers = {_KEY: key, **headers}
        connection = self._client.require()
        reply = await connection.request(subject, value, headers=headers, timeout=self._timeout)
        try:
            answer = js_api.answer_of(reply, subject)
        except js_api.Unavailable as error:
            self._made = False  # nobody took it: the bucket may be gone
            raise NotSent(str(error)) from error
        except JetStreamError as error:
            if error.code in (js_api.WRONG_LAST, _WRONG_LAST_SOMEWHERE):
                last = str(error).rpartition(":")[2].strip()
                raise WrongRevision(str(error), int(last) if last.isdigit() else None) from error
            raise Refused(str(error)) if error.stored_nothing else error from error
        return int(answer["seq"])

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[KeyWatch]:
        await self._make()
        consumer = bucket_consumer(self._client, self._api, self._bucket)
        self._start(consumer.run)
        try:
            yield _Watch(self, consumer)
        finally:
            consumer.close()

    def _subject(self, key: str) -> str:
        return f"$KV.{self._bucket}.{key}"

    def _entry(self, key: str, entry: Entry) -> KeyEntry:
        gone = entry.headers.get(_OPERATION) in _GONE
        return KeyEntry(key, None if gone else entry.payload, entry.sequence)

    async def _make(self) -> None:
        if self._made:
            await trio.lowlevel.checkpoint()
            return
        # A follower of the bucket may be behind: only its leader is asked.
        config = bucket_config(self._bucket, self._replicas, direct=False, max_age=self._max_age)
        try:
            await self._api.call(f"STREAM.CREATE.{self._stream}", config)
        except JetStreamError as error:
            if error.code != js_api.NAME_EXISTS:
                raise
            await self._raise_replicas()
        self._made = True

    async def _raise_replicas(self) -> None:
        """A bucket that was made before the stream was given more copies gets as many."""
        info = await self._api.call(f"STREAM.INFO.{self._stream}")
        config = info["config"]
        if int(config.get("num_replicas") or 1) < self._replicas:
            wanted = {**config, "num_replicas": self._replicas}
            await self._api.call(f"STREAM.UPDATE.{self._stream}", wanted)


class _Watch:
    def __init__(self, keys: JetStreamKeys, consumer: OrderedConsumer) -> None:
        self._keys = keys
        self._consumer = consumer

    async def receive(self) -> Sequence[KeyEntry]:
        try:
            entries = await self._consumer.receive()
        except LogError:
            self._keys._made = False  # it may have been deleted
            raise
        return [self._keys._entry(entry.headers.get(_KEY, ""), entry) for entry in entries]
