"""Reads what a consumer should have brought and has not, without it.

A consumer lives on one server of a NATS cluster. If that is gone, another consumer must be made,
for which the cluster may first have to elect the leader of its own administration: seconds, in
which the stream itself may well be there, and take messages. Its leader then answers for single
messages.
"""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from ha.log import js_api
from ha.log.api import Entry, LogError, LogReset
from ha.log.js_api import Api, JetStreamError

_log = logging.getLogger("ha.log")

_PATIENCE = 0.2  # seconds that a message may take from its ack to its delivery
_PATIENCE_WHILE_DOWN = 0.02
_LOOK = 0.5  # seconds from one look at a quiet consumer to the next
_TIMEOUT = 1.0


class Delayed(Protocol):
    """A consumer, as far as it matters here."""

    position: int
    pending: int

    @property
    def silent(self) -> bool: ...

    def take(self, entry: Entry, pending: int) -> None: ...

    def check_stream(self, info: dict[str, object]) -> None: ...

    def fail(self, error: LogError) -> None: ...


class Stopgap:
    """Helps one subscription out. :meth:`run` it beside the consumer."""

    def __init__(self, api: Api, consumer: Delayed, *, stream: str, subject: str) -> None:
        self._api = api
        self._consumer = consumer
        self._stream = stream
        self._subject = subject
        self._acked = 0
        self._idle: trio.Event | None = None
        self._patience = _PATIENCE
        self._scope = trio.CancelScope()

    def close(self) -> None:
        """Stop it. Not async, so that it can be called when nothing may be awaited."""
        self._scope.cancel()

    def note(self, sequence: int) -> None:
        """The stream has said that the log holds this one."""
        if sequence > self._acked:
            self._acked = sequence
            if self._idle is not None:
                self._idle.set()

    async def run(self) -> None:
        """Until :meth:`close`, or until the stream is another one."""
        with self._scope:
            await self._run()

    async def _run(self) -> None:
        consumer = self._consumer
        while True:
            if consumer.position >= self._acked and not consumer.silent:
                self._idle = trio.Event()
                with trio.move_on_after(_LOOK):
                    await self._idle.wait()
                self._idle = None
                continue
            expected = self._acked
            await trio.sleep(self._patience)
            if consumer.position >= expected and not consumer.silent:
                self._patience = _PATIENCE
                continue
            try:
                found = await self._read()
            except LogReset as error:
                consumer.fail(error)
                return
            self._patience = _PATIENCE_WHILE_DOWN if found else _PATIENCE

    async def _read(self) -> bool:
        """What there is beyond the consumer's position; whether that was something."""
        consumer = self._consumer
        found = False
        while True:
            get: dict[str, object] = {
                "seq": consumer.position + 1,
                "next_by_subj": self._subject,
            }
            try:
                answer, info = await self._api.call_many(
                    [
                        (f"STREAM.MSG.GET.{self._stream}", get),
                        (f"STREAM.INFO.{self._stream}", None),
                    ],
                    timeout=_TIMEOUT,
                )
            except LogError as error:
                _log.debug("%s cannot be read: %s", self._subject, error)
                return found
            if isinstance(info, LogError):
                return found
            consumer.check_stream(info)
            if isinstance(answer, JetStreamError) and answer.code == js_api.MESSAGE_NOT_FOUND:
                return found
            if isinstance(answer, LogError):
                return found
            if not found:
                _log.info("reading %s without its consumer", self._subject)
            found = True
            consumer.take(js_api.entry_of(answer["message"]), consumer.pending)
