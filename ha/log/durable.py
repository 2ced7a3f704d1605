"""The durable consumer of a node: it shows the node's position, and delivers nothing to us.

It remembers for us as well: in its metadata stands up to where the stream held nothing
beyond the node's position, so that a quiet log's position is still good after the stream
has dropped what other logs wrote since.

We read through an ordered consumer, which is faster; the durable one is moved after us. A
server of 2.14 or later moves it at a word (CONSUMER.RESET, ADR-60). For older ones its
messages are pulled, one at a time as ``max_ack_pending`` 1 wants it, and acknowledged up to
the mark, never beyond.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import trio

from ha.log import js_api
from ha.log import nats_wire as wire
from ha.log.api import LogError
from ha.log.client import Client
from ha.log.js_api import Api, JetStreamError

_log = logging.getLogger("ha.log")

_INTERVAL = 0.5  # at least this long between two moves
_RETRY = 2.0
_RESET_SINCE = (2, 14)
_POSITION, _FLOOR, _START = "ha.position", "ha.floor", "ha.start"


def shown_position(info: dict[str, object]) -> int | None:
    """Up to where the node of a durable consumer has applied the log, as its consumer info tells.

    None: it does not. A new consumer stands before the first message that the stream has, which
    says nothing of its node, nor of whether messages were there that it would have got.
    """
    floor, config = info.get("ack_floor"), info.get("config")
    if not isinstance(floor, dict) or not isinstance(config, dict):
        return None
    position = int(floor["stream_seq"])
    start = (config.get("metadata") or {}).get(_START)
    moved = int(floor["consumer_seq"]) > 0 if start is None else position > int(start)
    return position if moved else None


class Durable:
    """``deliver``: the configuration's deliver policy, as JetStream writes it (by default
    ``{"deliver_policy": "all"}``). ``detached`` is set when somebody else deleted it: the
    node's position is then not shown any more, until the node starts again.
    """

    def __init__(
        self,
        client: Client,
        api: Api,
        *,
        stream: str,
        subject: str,
        name: str,
        deliver: dict[str, object],
    ) -> None:
        self._client = client
        self._api = api
        self._stream = stream
        self._subject = subject
        self._deliver = deliver
        self.name = name
        self.detached = trio.Event()
        self._target = 0
        self._done = 0
        self._floor = (0, 0)  # a position, and the floor that belongs to it
        self._noted = (0, 0)
        self._wanted = trio.Event()

    def mark(self, sequence: int) -> None:
        """All up to ``sequence`` is applied. The consumer follows soon."""
        if sequence > self._target:
            self._target = sequence
            self._wanted.set()

    async def create(self, timeout: float) -> None:
        """Make it, unless it stands already, from the node's last run. Raises LogError."""
        config = {
            "name": self.name,
            "durable_name": self.name,
            "ack_policy": "explicit",
            "max_ack_pending": 1,
            "filter_subject": self._subject,
            "replay_policy": "instant",
            "headers_only": True,
        }
        path = f"{self._stream}.{self.name}"
        try:
            info = await self._api.retry(f"CONSUMER.INFO.{path}", timeout=timeout)
        except JetStreamError as error:
            if error.code != js_api.CONSUMER_NOT_FOUND:
                raise
            config |= await self._beginning(timeout)
            info = await self._api.retry(
                f"CONSUMER.CREATE.{path}.{self._subject}",
                {"stream_name": self._stream, "config": config, "action": ""},
                timeout=timeout,
            )
        if info["config"].get("filter_subject") != self._subject:
            raise LogError(
                f"the consumer {self.name} of the stream {self._stream} stands for the subject "
                f"{info['config'].get('filter_subject')}, not {self._subject}: give the node "
                "another --name"
            )
        self._done = int(info["ack_floor"]["stream_seq"])
        metadata = info["config"].get("metadata") or {}
        with suppress(KeyError, ValueError):
            self._floor = self._noted = (int(metadata[_POSITION]), int(metadata[_FLOOR]))

    @property
    def marked(self) -> int:
        """The highest mark since the node started; 0 if there was none."""
        return self._target

    def floor_of(self, position: int) -> int:
        """Up to where the stream held nothing of ours beyond ``position``; 0: not known."""
        return self._floor[1] if position and position == self._floor[0] else 0

    def note_floor(self, position: int, floor: int) -> None:
        """All up to ``position`` is applied, and there was no more up to ``floor``."""
        self._floor = (position, floor)
        self._wanted.set()

    async def _beginning(self, timeout: float) -> dict[str, object]:
        """The deliver policy: ``new`` and ``last`` as the sequence that they mean now, since only
        such can be moved. In the metadata stands where that is."""
        policy = self._deliver.get("deliver_policy")
        if policy == "by_start_sequence":
            return {**self._deliver, **_begins_at(int(str(self._deliver["opt_start_seq"])))}
        if policy not in ("all", "new", "last"):
            return self._deliver
        info = await self._api.retry(f"STREAM.INFO.{self._stream}", timeout=timeout)
        if policy == "all":
            return {**self._deliver, **_begins_at(int(info["state"]["first_seq"]))}
        start = int(info["state"]["last_seq"]) + 1
        if policy == "last":
            with suppress(JetStreamError):
                last = await self._api.retry(
                    f"STREAM.MSG.GET.{self._stream}",
                    {"last_by_subj": self._subject},
                    timeout=timeout,
                )
                start = int(last["message"]["seq"])
        config: dict[str, object] = {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
        return {**config, **_begins_at(start)}

    async def run(self) -> None:
        """Let it follow the marks, until it is deleted."""
        while not self.detached.is_set():
            await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                await self._follow()
                await trio.sleep(_INTERVAL)
            except LogError as error:
                if await self._is_gone():
                    _log.warning(
                        "the consumer %s was deleted: this node is not shown any more until it "
                        "starts again",
                        self.name,
                    )
                    self.detached.set()
                    return
                _log.debug("consumer %s: %s", self.name, error)
                await trio.sleep(_RETRY)
                self._wanted.set()

    async def _follow(self) -> None:
        target = self._target
        if target > self._done:
            if self._can_reset():
                await self._reset(target)
            else:
                await self._pull(target)
            self._done = target
        floor = self._floor
        if floor != self._noted:
            await self._note(*floor)
            self._noted = floor

    async def _note(self, position: int, floor: int) -> None:
        path = f"{self._stream}.{self.name}"
        config = (await self._api.call(f"CONSUMER.INFO.{path}"))["config"]
        words = {_POSITION: str(position), _FLOOR: str(floor)}
        config["metadata"] = {**(config.get("metadata") or {}), **words}
        await self._api.call(
            f"CONSUMER.CREATE.{path}.{self._subject}",
            {"stream_name": self._stream, "config": config, "action": "update"},
        )

    def _can_reset(self) -> bool:
        version = str(self._client.require().info.get("version", "0.0")).split(".")
        try:
            return (int(version[0]), int(version[1])) >= _RESET_SINCE
        except (ValueError, IndexError):
            return False

    async def _reset(self, target: int) -> None:
        # The consumer itself answers: when there is none, nobody does.
        await self._api.call(
            f"CONSUMER.RESET.{self._stream}.{self.name}", {"seq": target + 1}, timeout=_RETRY
        )

    async def _pull(self, target: int) -> None:
        """Fetch and acknowledge, message by message, all up to ``target``."""
        connection = self._client.require()
        # Not by request(): what is delivered comes under its own subject, not the inbox's.
        inbox = f"_INBOX.{self._client.token()}.p"
        send, receive = trio.open_memory_channel[tuple[bytes, bytes]](1)

        def on_message(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            with suppress(trio.WouldBlock):
                send.send_nowait((reply, headers))

        next_message = wire.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.name}".encode(),
            inbox.encode(),
            b"",
            b'{"batch":1,"no_wait":true}',
        )
        sid = connection.subscribe(inbox, on_message)
        try:
            while True:
                connection.write(next_message)
                with trio.move_on_after(_RETRY) as scope:
                    reply, headers = await receive.receive()
                if scope.cancelled_caught:
                    raise LogError("no answer to a pull")
                status = wire.status(headers)
                if status in (404, 408):
                    return  # there is none, or one is with us already
                if status:
                    raise LogError(wire.description(headers))
                sequence = _sequence_of(reply)
                if sequence > target:
                    # Not applied yet: give it back, for the next time.
                    await connection.request(reply.decode(), b"-NAK")
                    return
                await connection.request(reply.decode(), b"+ACK")
                if sequence == target:
                    return
        finally:
            connection.unsubscribe(sid)

    async def _is_gone(self) -> bool:
        try:
            await self._api.call(f"CONSUMER.INFO.{self._stream}.{self.name}")
        except JetStreamError as error:
            return error.code in (js_api.CONSUMER_NOT_FOUND, js_api.STREAM_NOT_FOUND)
        except LogError:
            pass
        return False


def _begins_at(sequence: int) -> dict[str, object]:
    return {"metadata": {_START: str(max(sequence - 1, 0))}}


def _sequence_of(ack_subject: bytes) -> int:
    """The stream sequence of a delivered message; see ``ha.log.ordered`` for the form."""
    fields = ack_subject.split(b".")
    return int(fields[5 if len(fields) == 9 else 7])
