"""Snapshots: an object of NATS' object store for each database.

The format is the object store's own, so that other clients read it: chunks on a subject of
their own, then a description that names them. The description is what makes an object: until
it is stored the former object is whole, and its chunks are removed only after.

Source: ADR-20 (object store).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from ha.core.naming import object_stream
from ha.log import js_api
from ha.log.api import Entry, LogError, NotSent, WrongLast
from ha.log.client import Client
from ha.log.js_api import Api, JetStreamError
from ha.log.ordered import OrderedConsumer

_log = logging.getLogger("ha.log")

CHUNK_SIZE = 128 * 1024  # unless the server takes less in a message
_HEADER_ROOM = 1024
_TOGETHER = 8  # chunks in one write, before their acks are awaited
_ACK_TIMEOUT = 15.0
_READ_TIMEOUT = 30.0  # without any progress
_LOOK_AFTER = 3.0  # without progress: is it still the same object?
_CLEAN_TIMEOUT = 5.0
_ORPHAN_AGE = 3600 * 10**9  # older than this, chunks that nothing names are left from a crash


@dataclass(frozen=True, slots=True)
class _Object:
    """A description as it stands in the bucket. ``revision``: its sequence there."""

    revision: int
    fields: dict[str, Any]

    @property
    def nuid(self) -> str:
        return str(self.fields.get("nuid", ""))

    @property
    def headers(self) -> dict[str, str]:
        raw = self.fields.get("headers") or {}
        return {name: values[0] for name, values in raw.items() if values}


class Bucket:
    """``start`` runs a task in the broker's nursery."""

    def __init__(
        self,
        client: Client,
        api: Api,
        *,
        name: str,
        replicas: int,
        start: Callable[..., None],
    ) -> None:
        self._client = client
        self._api = api
        self._name = name
        self._stream = object_stream(name)
        self._replicas = replicas
        self._start = start

    def _meta(self, name: str) -> str:
        return f"$O.{self._name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self._name}.C.{nuid}"

    async def _create(self) -> None:
        config: dict[str, object] = {
            "name": self._stream,
            "subjects": [f"$O.{self._name}.C.>", f"$O.{self._name}.M.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": self._replicas,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "compression": "s2",
        }
        try:
            await self._api.retry(f"STREAM.CREATE.{self._stream}", config)
        except JetStreamError as error:
            if error.code != js_api.NAME_EXISTS:
                raise

    async def _find(self, name: str) -> _Object | None:
        """None when there is no bucket, no such object, or a deleted one."""
        try:
            answer = await self._api.call(
                f"STREAM.MSG.GET.{self._stream}",
                {"last_by_subj": self._meta(name)},
                again=js_api.AGAIN,
            )
        except JetStreamError as error:
            if error.code in (js_api.STREAM_NOT_FOUND, js_api.MESSAGE_NOT_FOUND):
                return None
            raise
        message = answer["message"]
        try:
            fields = json.loads(base64.b64decode(message.get("data") or ""))
            if not isinstance(fields, dict):
                raise TypeError
        except (ValueError, TypeError) as error:
            raise LogError(f"the description of the snapshot {name!r} is broken") from error
        return _Object(int(message["seq"]), fields)

    async def headers(self, name: str) -> dict[str, str] | None:
        found = await self._find(name)
        return None if found is None or found.fields.get("deleted") else found.headers

    async def delete(self, name: str) -> None:
        """The description goes first: from then on there is no such object."""
        found = await self._find(name)
        if found is None:
            return
        await self._api.call(f"STREAM.PURGE.{self._stream}", {"filter": self._meta(name)})
        if found.nuid:
            await self._purge(found.nuid)

    # --- writing ---

    async def put(self, name: str, chunks: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        """Raises WrongLast when another object of that name was stored meanwhile.

        After any other LogError the former object or this one stands, whole.
        """
        await self._create()
        former = await self._find(name)
        nuid = self._client.token()
        try:
            description = await self._put_chunks(nuid, chunks)
        except BaseException:
            await self._purge_in_vain(nuid)
            raise
        description |= {
            "name": name,
            "bucket": self._name,
            "headers": {key: [value] for key, value in headers.items()},
            "options": {"max_chunk_size": CHUNK_SIZE},
        }
        revision = 0 if former is None else former.revision
        try:
            await self._publish(
                self._meta(name),
                [json.dumps(description).encode()],
                {"Nats-Rollup": "sub", js_api.EXPECT_HEADER: str(revision)},
            )
        except (NotSent, JetStreamError) as error:
            await self._purge_in_vain(nuid)
            if isinstance(error, JetStreamError) and error.code == js_api.WRONG_LAST:
                raise WrongLast(f"another snapshot of {name!r} was stored meanwhile") from error
            raise
        # If the answer was lost, the chunks stay: the description may name them.
        if former is not None and former.nuid:
            await self._purge(former.nuid)
        await self._remove_orphans()

    async def _put_chunks(self, nuid: str, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        digest = hashlib.sha256()
        size = count = 0
        room = self._client.require().max_payload - _HEADER_ROOM
        length = min(CHUNK_SIZE, room)
        async for pieces in _batches(chunks, length):
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
            count += len(pieces)
            await self._publish(self._chunks(nuid), pieces, None)
        encoded = base64.urlsafe_b64encode(digest.digest()).decode()
        return {"nuid": nuid, "size": size, "chunks": count, "digest": f"SHA-256={encoded}"}

    async def _publish(
        self, subject: str, payloads: list[bytes], headers: dict[str, str] | None
    ) -> None:
        """In one write, in order. Raises JetStreamError, NotSent, LogError."""
        replies = await self._client.require().request_many(
            [(subject, payload, headers) for payload in payloads], timeout=_ACK_TIMEOUT
        )
        for reply in replies:
            js_api.answer_of(reply, subject)

    async def _purge(self, nuid: str) -> None:
        await self._api.call(f"STREAM.PURGE.{self._stream}", {"filter": self._chunks(nuid)})

    async def _purge_in_vain(self, nuid: str) -> None:
        """Remove chunks that no description will name; if that fails, a later put does."""
        with trio.move_on_after(_CLEAN_TIMEOUT) as scope, suppress(LogError):
            scope.shield = True
            await self._purge(nuid)

    async def _remove_orphans(self) -> None:
        """Chunks that a crash has left: old, and named by no description."""
        info = await self._api.call(
            f"STREAM.INFO.{self._stream}", {"subjects_filter": f"$O.{self._name}.>"}
        )
        subjects = list(info["state"].get("subjects") or {})
        chunks = self._chunks("")
        nuids = {s.removeprefix(chunks) for s in subjects if s.startswith(chunks)}
        for meta in subjects:
            if not meta.startswith(chunks):
                last = await self._last(meta)
                nuids.discard(json.loads(last.payload).get("nuid"))
        if not nuids:
            return
        now_ns = js_api.parse_time(info["ts"]) if "ts" in info else 0
        for nuid in sorted(nuids):
            if now_ns - (await self._last(self._chunks(nuid))).time_ns > _ORPHAN_AGE:
                _log.info("removing an unfinished snapshot from %s", self._name)
                await self._purge(nuid)

    async def _last(self, subject: str) -> Entry:
        answer = await self._api.call(f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject})
        return js_api.entry_of(answer["message"])

    # --- reading ---

    async def get(self, name: str) -> AsyncIterator[bytes]:
        """Raises LogError when there is none, or when it is not whole."""
        found = await self._find(name)
        if found is None or found.fields.get("deleted"):
            raise LogError(f"there is no snapshot of {name!r}")
        digest = hashlib.sha256()
        missing = int(found.fields.get("chunks", 0))
        if missing:
            consumer = OrderedConsumer(
                self._client,
                self._api,
                stream=self._stream,
                subject=self._chunks(found.nuid),
                after=0,
                check=lambda info, position, floor: None,
            )
            self._start(consumer.run)
            try:
                while missing > 0:
                    for entry in await self._receive(consumer, name, found):
                        missing -= 1
                        digest.update(entry.payload)
                        yield entry.payload
            finally:
                consumer.close()
        expected = str(found.fields.get("digest", "")).partition("=")[2]
        if base64.urlsafe_b64encode(digest.digest()).decode() != expected:
            raise LogError(f"the snapshot of {name!r} is damaged: its digest is another")

    async def _receive(
        self, consumer: OrderedConsumer, name: str, found: _Object
    ) -> Sequence[Entry]:
        deadline = trio.current_time() + _READ_TIMEOUT
        while trio.current_time() < deadline:
            with trio.move_on_after(_LOOK_AFTER):
                return await consumer.receive()
            now = await self._find(name)
            if now is None or now.nuid != found.nuid:
                raise LogError(f"the snapshot of {name!r} was replaced while it was read")
        raise LogError(f"the snapshot of {name!r} is not whole, or the broker is too slow")


async def _batches(chunks: AsyncIterator[bytes], length: int) -> AsyncIterator[list[bytes]]:
    """Cut anew into pieces of ``length`` bytes, a few together."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        whole = len(rest) // length
        if whole >= _TOGETHER:
            yield [bytes(rest[i * length : (i + 1) * length]) for i in range(whole)]
            del rest[: whole * length]
    if rest:
        yield [bytes(rest[i : i + length]) for i in range(0, len(rest), length)]
