"""JetStream on a server of core NATS: streams, consumers, and the requests about them.

Source: nats-server 2.15 (``server/jetstream_api.go``); ADR-1, ADR-13 (pull consumers), ADR-31
(direct get), ADR-60 (consumer reset).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any

from ha.log.js_api import format_time
from sim.nats import errors
from sim.nats.config import (
    check_consumer_update,
    check_stream_update,
    consumer_config,
    stream_config,
)
from sim.nats.consumer import Consumer, Post
from sim.nats.core import Core
from sim.nats.errors import ApiError
from sim.nats.stream import Message, Stream
from sim.nats.subjects import overlap

_API = "$JS.API."
_TYPE = "io.nats.jetstream.api.v1."
_NEVER = "0001-01-01T00:00:00Z"
_PAGE, _NAMES_PAGE = 256, 1024

Answer = dict[str, Any]

_NONE = {"total": 0, "offset": 0, "limit": 0}
_FAILED: dict[str, Answer] = {
    "STREAM.INFO": _NONE,
    "STREAM.PURGE": {"purged": 0},
    "CONSUMER.NAMES": {**_NONE, "consumers": []},
    "CONSUMER.LIST": {**_NONE, "consumers": []},
}
"""What stands beside an error."""


class JetStream:
    """``clustered``: three servers, s1 to s3, each with a copy of each stream.

    ``post`` is how its consumers reach their clients, ``respond(reply, answer)`` how requests are
    answered. ``version`` stands in metadata; ``new_name`` makes the name of a consumer that has
    none; ``alive`` tells which servers there are at present.
    """

    def __init__(
        self,
        core: Core,
        post: Post,
        *,
        respond: Callable[[str, bytes], None],
        version: str,
        new_name: Callable[[], str],
        alive: Callable[[], list[str]] = lambda: ["s1"],
        clustered: bool = False,
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[str, dict[str, Consumer]] = {}
        self.clustered = clustered
        self.leaders: dict[str, str] = {}
        """Which server leads a stream; for a cluster."""
        self.version = version
        self._core = core
        self._post = post
        self._respond = respond
        self._new_name = new_name
        self._alive = alive
        self._handlers: dict[str, Callable[[list[str], bytes], Answer]] = {
            "INFO": self._account_info,
            "STREAM.CREATE": self._stream_create,
            "STREAM.UPDATE": self._stream_update,
            "STREAM.INFO": self._stream_info,
            "STREAM.DELETE": self._stream_delete,
            "STREAM.PURGE": self._stream_purge,
            "STREAM.NAMES": self._stream_names,
            "STREAM.LIST": self._stream_list,
            "STREAM.MSG.GET": self._message_get,
            "STREAM.MSG.DELETE": self._message_delete,
            "STREAM.LEADER.STEPDOWN": self._step_down,
            "CONSUMER.CREATE": self._consumer_create,
            "CONSUMER.DURABLE.CREATE": self._consumer_create,
            "CONSUMER.INFO": self._consumer_info,
            "CONSUMER.DELETE": self._consumer_delete,
            "CONSUMER.LIST": self._consumer_list,
            "CONSUMER.NAMES": self._consumer_names,
        }

    # --- what comes in ---------------------------------------------------------------

    def request(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """A message on ``$JS.>``; whether somebody answers to that."""
        if subject.startswith("$JS.ACK."):
            return self._ack(subject, reply, payload)
        if subject.startswith("$JS.FC."):
            tokens = subject.split(".")
            consumer = self.consumers.get(tokens[2], {}).get(tokens[3])
            if consumer is not None:
                consumer.flow(subject)
            return True
        if not subject.startswith(_API):
            return False
        path = subject[len(_API) :]
        if path.startswith("CONSUMER.MSG.NEXT."):
            return self._next(path.split(".")[3:], reply, payload)
        if path.startswith("CONSUMER.RESET."):
            return self._reset(path.split(".")[2:], reply, payload)
        if path.startswith("DIRECT.GET."):
            return self._direct_get(path.split(".", 3)[2:], reply, payload)
        name, handler, rest = self._find(path)
        if handler is None:
            return True  # JetStream listens to all of its subjects, and says nothing
        kind = _TYPE + name.lower().replace(".", "_").replace("_durable", "") + "_response"
        try:
            answer = {"type": kind, **handler(rest, payload)}
        except ApiError as error:
            answer = {"type": kind, "error": error.json, **_FAILED.get(name, {})}
        self.answer(reply, answer)
        return True

    def answer(self, reply: str, answer: Answer) -> None:
        self._respond(reply, json.dumps(answer, separators=(",", ":")).encode())

    def _find(
        self, path: str
    ) -> tuple[str, Callable[[list[str], bytes], Answer] | None, list[str]]:
        tokens = path.split(".")
        for length in (3, 2, 1):
            name = ".".join(tokens[:length])
            if name in self._handlers:
                return name, self._handlers[name], tokens[length:]
        return "", None, []

    def stream_for(self, subject: str) -> Stream | None:
        """Which takes a message with this subject."""
        return next((s for s in self.streams.values() if s.takes(subject)), None)

    def _ack(self, subject: str, reply: str, payload: bytes) -> bool:
        tokens = subject.split(".")
        if len(tokens) != 9:
            return False
        consumer = self.consumers.get(tokens[2], {}).get(tokens[3])
        if consumer is None:
            return False
        consumer.ack(int(tokens[5]), payload, reply)
        if reply and not payload.startswith(b"+NXT"):
            self._core.route(reply, "", b"", b"")
        return True

    def _next(self, rest: list[str], reply: str, payload: bytes) -> bool:
        consumer = self.consumers.get(rest[0], {}).get(rest[1]) if len(rest) == 2 else None
        if consumer is None:
            return False
        consumer.pull(reply, payload)
        return True

    def _reset(self, rest: list[str], reply: str, payload: bytes) -> bool:
        consumer = self.consumers.get(rest[0], {}).get(rest[1]) if len(rest) == 2 else None
        if consumer is None:
            return True
        kind = f"{_TYPE}consumer_reset_response"
        try:
            fields = _object(payload) if payload else {}
            sequence = consumer.reset(int(fields.get("seq") or 0))
            answer = {"type": kind, **self._describe(consumer), "reset_seq": sequence}
        except ApiError as error:
            answer = {"type": kind, "error": error.json, "reset_seq": 0}
        self.answer(reply, answer)
        return True

    # --- streams ---------------------------------------------------------------------

    def _stream(self, name: str) -> Stream:
        found = self.streams.get(name)
        if found is None:
            raise errors.stream_not_found()
        found.expire()
        return found

    def _stream_config(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        asked = _object(payload) if payload else {}
        name = rest[0] if rest else ""
        return stream_config(name, asked, clustered=self.clustered, version=self.version)

    def _stream_create(self, rest: list[str], payload: bytes) -> Answer:
        config = self._stream_config(rest, payload)
        name = config["name"]
        known = self.streams.get(name)
        if known is not None:
            if known.config != config:
                raise ApiError(
                    400, 10058, "stream name already in use with a different configuration"
                )
            return {**self._describe_stream(known), "did_create": True}
        self._check_overlap(config)
        return {**self._describe_stream(self.create(config)), "did_create": True}

    def _check_overlap(self, config: dict[str, Any]) -> None:
        for other in self.streams.values():
            if other.name != config["name"] and any(
                overlap(a, b) for a in config["subjects"] for b in other.config["subjects"]
            ):
                raise ApiError(400, 10065, "subjects overlap with an existing stream")

    def create(self, config: dict[str, Any]) -> Stream:
        """Of a whole configuration."""
        post = self._post
        stream = Stream(
            config,
            created=post.now_ns(),
            now_ns=post.now_ns,
            time=post.time,
            at=lambda time, work: post.after(max(time - post.time(), 0.0), work),
            clustered=self.clustered,
        )
        name = stream.name
        self.streams[name] = stream
        self.consumers[name] = {}
        self.leaders.setdefault(name, "s1")
        stream.changed = lambda: self.pump(name)
        return stream

    def pump(self, name: str) -> None:
        for consumer in list(self.consumers.get(name, {}).values()):
            consumer.pump()

    def _stream_update(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        config = self._stream_config(rest, payload)
        check_stream_update(stream.config, config)
        self._check_overlap(config)
        stream.config = config
        stream.enforce()
        return self._describe_stream(stream)

    def _describe_stream(self, stream: Stream) -> Answer:
        return {
            "config": stream.config,
            "created": format_time(stream.created),
            "state": self._state(stream),
            "ts": format_time(self._post.now_ns()),
        }

    def _cluster(self, stream: Stream) -> Answer:
        leader = self.leaders[stream.name]
        if not self.clustered or int(stream.config["num_replicas"]) == 1:
            return {"leader": leader}
        others = [s for s in ("s1", "s2", "s3") if s != leader]
        replicas = [{"name": s, "current": True, "active": 0} for s in others]
        return {"name": "sim", "leader": leader, "replicas": replicas}

    def _state(self, stream: Stream) -> Answer:
        first = stream.get(stream.first)
        state: Answer = {
            "messages": len(stream),
            "bytes": stream.bytes,
            "first_seq": stream.first,
            "first_ts": _NEVER if first is None else format_time(first.time_ns),
            "last_seq": stream.last,
            "last_ts": format_time(stream.last_ns) if stream.last_ns else _NEVER,
            "consumer_count": len(self.consumers[stream.name]),
        }
        subjects = len(stream.subjects(">"))
        if subjects:
            state["num_subjects"] = subjects
        if len(stream):
            missing = stream.last - stream.first + 1 - len(stream)
            if missing:
                state["num_deleted"] = missing
        return state

    def _stream_info(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        asked = _object(payload) if payload else {}
        answer = {**self._describe_stream(stream), "cluster": self._cluster(stream)}
        if asked.get("deleted_details") and len(stream):
            deleted = list(stream.missing())
            if deleted:
                answer["state"]["deleted"] = deleted
        if asked.get("subjects_filter"):
            found = stream.subjects(asked["subjects_filter"])
            offset = int(asked.get("offset") or 0)
            if found:
                answer["state"]["subjects"] = dict(list(found.items())[offset:])
            return {"total": len(found), "offset": offset, "limit": 100_000, **answer}
        return {"total": 0, "offset": 0, "limit": 0, **answer}

    def _stream_delete(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        self.delete(stream.name)
        return {"success": True}

    def delete(self, name: str) -> None:
        for consumer in list(self.consumers.pop(name).values()):
            consumer.delete()
        del self.streams[name], self.leaders[name]

    def _stream_purge(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        asked = _object(payload) if payload else {}
        if stream.config["deny_purge"]:
            raise ApiError(500, 10110, "stream purge not permitted")
        if asked.get("seq") and asked.get("keep"):
            raise errors.bad_request()
        purged = stream.purge(
            asked.get("filter") or ">",
            before=int(asked["seq"]) if asked.get("seq") else None,
            keep=int(asked.get("keep") or 0),
        )
        for consumer in self.consumers[stream.name].values():
            consumer.purged()
        return {"success": True, "purged": purged}

    def _streams_of(self, payload: bytes) -> tuple[list[Stream], int]:
        asked = _object(payload) if payload else {}
        wanted = asked.get("subject")
        found = [
            s
            for s in self.streams.values()
            if not wanted or any(overlap(wanted, p) for p in s.config["subjects"])
        ]
        return sorted(found, key=lambda s: s.name), int(asked.get("offset") or 0)

    def _stream_names(self, rest: list[str], payload: bytes) -> Answer:
        found, offset = self._streams_of(payload)
        names = [s.name for s in found]
        page = names[offset : offset + _NAMES_PAGE]
        return {**_paged(names, offset, _NAMES_PAGE), "streams": page or None}

    def _stream_list(self, rest: list[str], payload: bytes) -> Answer:
        found, offset = self._streams_of(payload)
        page = [self._describe_stream(s) for s in found[offset : offset + _PAGE]]
        return {**_paged(found, offset, _PAGE), "streams": page}

    def _step_down(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        asked = _object(payload) if payload else {}
        wanted = (asked.get("placement") or {}).get("preferred")
        others = [s for s in ("s1", "s2", "s3") if s != self.leaders[stream.name]]
        self.leaders[stream.name] = wanted if wanted in others else others[0]
        return {"success": True}

    # --- single messages -------------------------------------------------------------

    def _look_up(self, stream: Stream, asked: dict[str, Any]) -> Message | None:
        """Raises ApiError for a question that is none."""
        sequence = int(asked.get("seq") or 0)
        if asked.get("last_by_subj"):
            if sequence:
                raise errors.bad_request()
            return stream.last_of(asked["last_by_subj"])
        if asked.get("next_by_subj"):
            return stream.following(sequence, (asked["next_by_subj"],))
        if not sequence:
            raise errors.bad_request()
        return stream.get(sequence)

    def _message_get(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        found = self._look_up(stream, _object(payload) if payload else {})
        if found is None:
            raise errors.no_message()
        message: Answer = {"subject": found.subject, "seq": found.sequence}
        if found.headers:
            message["hdrs"] = base64.b64encode(found.headers).decode()
        if found.payload:
            message["data"] = base64.b64encode(found.payload).decode()
        message["time"] = format_time(found.time_ns)
        return {"message": message}

    def _message_delete(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        if stream.config["deny_delete"]:
            raise ApiError(500, 10057, "message delete not permitted")
        if not payload:
            raise errors.bad_request()
        sequence = int(_object(payload).get("seq") or 0)
        if sequence > stream.last:
            raise ApiError(500, 10057, "stream store EOF")
        if stream.get(sequence) is None:
            raise ApiError(400, 10043, f"sequence {sequence} not found")
        stream.remove(sequence)
        stream.changed()
        return {"success": True}

    def _direct_get(self, rest: list[str], reply: str, payload: bytes) -> bool:
        stream = self.streams.get(rest[0])
        if stream is None or not stream.config["allow_direct"]:
            return False
        stream.expire()
        asked: dict[str, Any] = {}
        if len(rest) > 1:
            asked = {"last_by_subj": rest[1]}
        elif payload:
            asked = _object(payload)
        try:
            found = self._look_up(stream, asked)
        except ApiError:
            self._core.route(reply, "", b"NATS/1.0 408 Empty Request\r\n\r\n", b"")
            return True
        if found is None:
            self._core.route(reply, "", b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
            return True
        start = found.headers[:-2] if found.headers else b"NATS/1.0\r\n"
        words = (
            f"Nats-Stream: {stream.name}\r\nNats-Subject: {found.subject}\r\n"
            f"Nats-Sequence: {found.sequence}\r\n"
            f"Nats-Time-Stamp: {format_time(found.time_ns)}\r\n\r\n"
        )
        self._core.route(reply, "", start + words.encode(), found.payload)
        return True

    # --- consumers -------------------------------------------------------------------

    def _consumer(self, rest: list[str]) -> Consumer:
        self._stream(rest[0])
        found = self.consumers[rest[0]].get(rest[1] if len(rest) > 1 else "")
        if found is None:
            raise errors.consumer_not_found()
        return found

    def _consumer_create(self, rest: list[str], payload: bytes) -> Answer:
        stream = self._stream(rest[0])
        request = _object(payload)
        asked = request.get("config") or {}
        config = consumer_config(rest[1:], asked, takes=stream.takes, version=self.version)
        name = config.get("name") or self._new_name()
        known = self.consumers[stream.name].get(name)
        action = request.get("action") or ""
        if known is None:
            if action == "update":
                raise ApiError(400, 10149, "consumer does not exist")
            self._check_work_queue(stream, config)
            alive = self._alive()
            server = alive[len(self.consumers[stream.name]) % len(alive)]
            consumer = Consumer(stream, name, config, self._post, server)
            self.consumers[stream.name][name] = consumer
            self._post.after(0, consumer.pump)
            return self._describe(consumer)
        if action == "create" and known.config != config:
            raise ApiError(400, 10148, "consumer already exists")
        self._update(known, config)
        return self._describe(known)

    def _check_work_queue(self, stream: Stream, config: dict[str, Any]) -> None:
        if stream.config["retention"] != "workqueue" or not self.consumers[stream.name]:
            return
        if not config.get("filter_subject") and not config.get("filter_subjects"):
            words = "multiple non-filtered consumers not allowed on workqueue stream"
            raise ApiError(400, 10099, words)

    def forget(self, consumer: Consumer) -> None:
        """It has ended by itself."""
        found = self.consumers.get(consumer.stream.name, {})
        if found.get(consumer.name) is consumer:
            del found[consumer.name]

    def _update(self, consumer: Consumer, config: dict[str, Any]) -> None:
        subject = consumer.config.get("deliver_subject")
        bound = subject is not None and self._core.interest(subject, exact=True)
        check_consumer_update(consumer.config, config, bound=bound)
        consumer.config = config
        consumer.changed()
        consumer.pump()

    def _describe(self, consumer: Consumer) -> Answer:
        answer = {
            "stream_name": consumer.stream.name,
            "name": consumer.name,
            "created": format_time(consumer.created),
            "config": consumer.config,
            **consumer.info(),
            "ts": format_time(self._post.now_ns()),
        }
        if consumer.is_push and self._core.interest(consumer.config["deliver_subject"], exact=True):
            answer["push_bound"] = True
        return answer

    def _consumer_info(self, rest: list[str], payload: bytes) -> Answer:
        return self._describe(self._consumer(rest))

    def _consumer_delete(self, rest: list[str], payload: bytes) -> Answer:
        consumer = self._consumer(rest)
        self.forget(consumer)
        consumer.delete()
        return {"success": True}

    def _consumers_of(self, rest: list[str], payload: bytes) -> tuple[list[Consumer], int]:
        stream = self._stream(rest[0])
        asked = _object(payload) if payload else {}
        found = sorted(self.consumers[stream.name].values(), key=lambda c: c.name)
        return found, int(asked.get("offset") or 0)

    def _consumer_list(self, rest: list[str], payload: bytes) -> Answer:
        found, offset = self._consumers_of(rest, payload)
        page = [self._describe(c) for c in found[offset : offset + _PAGE]]
        return {**_paged(found, offset, _PAGE), "consumers": page}

    def _consumer_names(self, rest: list[str], payload: bytes) -> Answer:
        found, offset = self._consumers_of(rest, payload)
        names = [c.name for c in found]
        page = names[offset : offset + _NAMES_PAGE]
        return {**_paged(names, offset, _NAMES_PAGE), "consumers": page}

    def _account_info(self, rest: list[str], payload: bytes) -> Answer:
        return {
            "streams": len(self.streams),
            "consumers": sum(len(c) for c in self.consumers.values()),
            "storage": sum(s.bytes for s in self.streams.values()),
        }


def _object(payload: bytes) -> dict[str, Any]:
    """Raises ApiError."""
    try:
        found = json.loads(payload)
    except ValueError as problem:
        raise ApiError(400, 10025, f"invalid JSON: {problem}") from None
    if not isinstance(found, dict):
        raise ApiError(400, 10025, "invalid JSON: not an object")
    return found


def _paged(found: Iterable[object], offset: int, limit: int, total: int | None = None) -> Answer:
    count = len(list(found)) if total is None else total
    return {"total": count, "offset": offset, "limit": limit}
