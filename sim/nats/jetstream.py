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
from sim.nats.consumer import Consumer, Post
from sim.nats.core import Core
from sim.nats.errors import ApiError
from sim.nats.stream import DEFAULTS, NANOSECONDS, Message, Stream
from sim.nats.subjects import is_valid, overlap

_API = "$JS.API."
_TYPE = "io.nats.jetstream.api.v1."
_NEVER = "0001-01-01T00:00:00Z"
_PAGE, _NAMES_PAGE = 256, 1024
_EPHEMERAL = 5 * NANOSECONDS

Answer = dict[str, Any]

_NONE = {"total": 0, "offset": 0, "limit": 0}
_FAILED: dict[str, Answer] = {
    "STREAM.INFO": _NONE,
    "STREAM.PURGE": {"purged": 0},
    "CONSUMER.NAMES": {**_NONE, "consumers": []},
    "CONSUMER.LIST": {**_NONE, "consumers": []},
}
"""What stands beside an error."""
_STREAM_FIELDS = {
    *DEFAULTS, "name", "description", "subjects", "metadata", "discard_new_per_subject", "no_ack",
    "subject_delete_marker_ttl", "first_seq", "placement", "mirror", "sources", "republish",
    "subject_transform", "template_owner", "allow_atomic", "allow_msg_counter",
    "allow_msg_schedules", "persist_mode",
}  # fmt: skip


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

    def _config(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        asked = _object(payload) if payload else {}
        name = rest[0] if rest else ""
        if asked.get("name") != name:
            raise ApiError(400, 10056, "stream name in subject does not match request")
        for key in asked:
            if key not in _STREAM_FIELDS:
                raise ApiError(400, 10025, f'invalid JSON: json: unknown field "{key}"')
        config = {"name": name, "subjects": [name], **DEFAULTS}
        config |= {key: value for key, value in asked.items() if value is not None}
        for key in ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size"):
            config[key] = config[key] or -1
        config["num_replicas"] = config["num_replicas"] or 1
        if not asked.get("subjects"):
            config["subjects"] = [name]
        if not asked.get("duplicate_window"):
            age = config["max_age"]
            config["duplicate_window"] = min(DEFAULTS["duplicate_window"], age or float("inf"))
        if config["max_age"] and config["duplicate_window"] > config["max_age"]:
            raise ApiError(500, 10052, "duplicates window can not be larger then max age")
        if config["num_replicas"] > 1 and not self.clustered:
            raise ApiError(500, 10074, "replicas > 1 not supported in non-clustered mode")
        _check_sound(config)
        config["metadata"] = {**(asked.get("metadata") or {}), **self._levels}
        return config

    @property
    def _levels(self) -> dict[str, str]:
        return {"_nats.level": "5", "_nats.req.level": "0", "_nats.ver": self.version}

    def _stream_create(self, rest: list[str], payload: bytes) -> Answer:
        config = self._config(rest, payload)
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
        config = self._config(rest, payload)
        self._check_update(stream.config, config)
        self._check_overlap(config)
        stream.config = config
        stream.enforce()
        return self._describe_stream(stream)

    def _check_update(self, former: dict[str, Any], config: dict[str, Any]) -> None:
        start = "stream configuration update can not"
        if config["storage"] != former["storage"]:
            raise ApiError(500, 10052, f"{start} change storage type")
        if config["retention"] != former["retention"]:
            raise ApiError(500, 10052, f"{start} change retention policy to/from workqueue")
        for key, words in (("deny_delete", "deny message deletes"), ("deny_purge", "deny purge")):
            if former[key] and not config[key]:
                raise ApiError(500, 10052, f"{start} cancel {words}")

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
        asked = dict(request.get("config") or {})
        config = self._consumer_config(stream, rest, asked)
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
        for key, words in (
            ("ack_policy", "ack policy"),
            ("deliver_policy", "deliver policy"),
            ("opt_start_seq", "start sequence"),
        ):
            if consumer.config.get(key) != config.get(key):
                raise ApiError(500, 10012, f"{words} can not be updated")
        to, now = config.get("deliver_subject"), consumer.config.get("deliver_subject")
        if to and not now:
            raise ApiError(500, 10012, "can not update pull consumer to push based")
        if now and to != now and self._core.interest(now, exact=True):
            raise ApiError(400, 10013, "consumer name already in use")
        consumer.config = config
        consumer.changed()
        consumer.pump()

    def _consumer_config(
        self, stream: Stream, rest: list[str], asked: dict[str, Any]
    ) -> dict[str, Any]:
        """With all defaults. Raises ApiError."""
        durable, name = asked.get("durable_name"), rest[1] if len(rest) > 1 else ""
        if durable and name and durable != name:
            raise ApiError(
                400, 10017, "consumer name in subject does not match durable name in request"
            )
        name = name or durable or asked.get("name") or ""
        subject = asked.get("filter_subject")
        if len(rest) > 2 and ".".join(rest[2:]) != subject:
            raise ApiError(
                400,
                10131,
                "Consumer create request did not match filtered subject from create subject",
            )
        several = asked.get("filter_subjects") or []
        if subject and several:
            raise ApiError(
                400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified"
            )
        if any(overlap(a, b) for i, a in enumerate(several) for b in several[i + 1 :]):
            raise ApiError(400, 10138, "consumer subject filters cannot overlap")
        config: dict[str, Any] = {
            "deliver_policy": "all",
            "ack_policy": "none",
            "max_deliver": -1,
            "replay_policy": "instant",
            "num_replicas": 0,
        }
        if name:
            config["name"] = name
        config |= {k: v for k, v in asked.items() if v not in (None, "", [], False, 0)}
        if name:
            config["name"] = name
        config["max_deliver"] = config["max_deliver"] or -1
        self._check_policy(config)
        acks = config["ack_policy"] != "none"
        push = bool(config.get("deliver_subject"))
        if acks:
            config.setdefault("ack_wait", 30 * NANOSECONDS)
            config.setdefault("max_ack_pending", 1000)
        if push:
            self._check_push(stream, config)
        else:
            config.setdefault("max_waiting", 512)
        if not config.get("durable_name"):
            config.setdefault("inactive_threshold", _EPHEMERAL)
        config["metadata"] = {**(asked.get("metadata") or {}), **self._levels}
        return config

    def _check_policy(self, config: dict[str, Any]) -> None:
        words = {
            "by_start_sequence": "deliver by start sequence",
            "by_start_time": "deliver by start time",
            "last_per_subject": "deliver last per subject",
            "all": "deliver all",
            "new": "deliver new",
            "last": "deliver last",
        }
        policy = config["deliver_policy"]
        problem = ""
        if policy == "by_start_sequence" and not config.get("opt_start_seq"):
            problem = "but optional start sequence is not set"
        elif policy == "by_start_time" and not config.get("opt_start_time"):
            problem = "but optional start time is not set"
        elif policy == "last_per_subject" and not (
            config.get("filter_subject") or config.get("filter_subjects")
        ):
            problem = "but optional filter subject is not set"
        elif policy != "by_start_sequence" and config.get("opt_start_seq"):
            problem = "but optional start sequence is also set"
        elif policy != "by_start_time" and config.get("opt_start_time"):
            problem = "but optional start time is also set"
        if problem:
            raise ApiError(
                400, 10094, f"consumer delivery policy is {words.get(policy, policy)}, {problem}"
            )

    def _check_push(self, stream: Stream, config: dict[str, Any]) -> None:
        if stream.takes(config["deliver_subject"]):
            raise ApiError(400, 10081, "consumer deliver subject forms a cycle")
        beat = config.get("idle_heartbeat")
        if beat and beat < NANOSECONDS // 10:
            raise ApiError(400, 10083, "consumer idle heartbeat needs to be >= 100ms")
        if config.get("flow_control") and not beat:
            raise ApiError(400, 10108, "consumer with flow control also needs heartbeats")

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


def _check_sound(config: dict[str, Any]) -> None:
    """Raises ApiError."""
    problem = ""
    if config.get("discard_new_per_subject") and config["discard"] != "new":
        problem = "discard new per subject requires discard new policy to be set"
    elif config["allow_rollup_hdrs"] and config["deny_purge"]:
        problem = "roll-ups require the purge permission"
    elif not all(is_valid(s) for s in config["subjects"]):
        problem = "invalid subject"
    elif any(overlap(s, "$JS.API.>") for s in config["subjects"]):
        problem = "subjects that overlap with jetstream api require no-ack to be true"
    if problem:
        raise ApiError(500, 10052, problem)


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
