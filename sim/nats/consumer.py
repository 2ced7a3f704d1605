"""One consumer of a stream: what it has delivered, what waits for an ack, and who wants more.

Source: nats-server 2.15 (``server/consumer.go``), as far as
``tests/unit/test_jetstream_conformance.py`` compares it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ha.log.js_api import format_time, parse_time
from sim.nats.errors import ApiError
from sim.nats.pulls import BadPull, Pull, parse_pull
from sim.nats.stream import NANOSECONDS, Message, Stream

_FLOW_WINDOW = 64 * 1024
"""Bytes that may be under way to a consumer with flow control until it first says so."""
_FLOW_WINDOW_MAX = 32 * 1024 * 1024
_PULL_BYTES = "Nats-Pending-Messages: {}\r\nNats-Pending-Bytes: {}"


class Post(Protocol):
    """How a consumer reaches its clients, and time."""

    def interest(self, subject: str, *, exact: bool = False) -> bool: ...

    def send(self, subject: str, reply: str, headers: bytes, payload: bytes, to: str) -> None:
        """To who listens to ``to``; ``subject`` is what he is told."""
        ...

    def after(self, delay: float, work: Callable[[], None]) -> None: ...

    def time(self) -> float: ...

    def now_ns(self) -> int: ...

    def delivers(self, consumer: Consumer) -> str:
        """Asked before each round: ``""``, or what is wrong: ``stall``, ``repeat``, ``gap``."""
        ...

    def sees(self, consumer: Consumer) -> int:
        """How far the copy that it reads goes; -1: it is whole."""
        ...

    def ended(self, consumer: Consumer) -> None:
        """Nobody has wanted it for long."""
        ...


@dataclass(slots=True)
class Pending:
    """Delivered, and not acknowledged: its number in the consumer, and when it went last."""

    number: int
    since: float


class Consumer:
    """``durable``: it is kept over a restart. ``delivered`` and ``floor`` are pairs of the
    consumer's own numbering and the stream's. ``server``: the one that it lives on."""

    def __init__(
        self, stream: Stream, name: str, config: dict[str, Any], post: Post, server: str = ""
    ) -> None:
        self.stream = stream
        self.name = name
        self.config = config
        self.server = server
        self.created = post.now_ns()
        self.gone = False
        self.stalled = False
        self._post = post
        self._number = 0
        self._next = self._first_sequence()
        self._resume = stream.last + 1
        """Where it goes on after those of the beginning."""
        self._only: deque[int] | None = self._last_per_subject()
        self.floor = (0, self._next - 1)
        self.delivered = (0, self._next - 1)
        self.pending: dict[int, Pending] = {}
        self.deliveries: dict[int, int] = {}
        self._again: deque[int] = deque()
        self._later: dict[int, float] = {}
        self.waiting: deque[Pull] = deque()
        self._active_since = post.time()
        self._looked = 0
        """Up to where there was nothing more for it."""
        self._delivered_ns = 0
        self._acked_ns = 0
        self._heard = post.time()
        self._window = _FLOW_WINDOW
        self._under_way = 0
        self._flow = ""
        self._flow_bytes = 0
        self._flow_count = 0
        self._ack_timer = 0.0
        self._beating = self._watching = False
        self.changed()

    def changed(self) -> None:
        """Its configuration is new."""
        if self.is_push and not self._beating:
            self._beat()
        if not self._watching:
            self._watch_interest()

    # --- what it is ------------------------------------------------------------------

    @property
    def is_push(self) -> bool:
        return bool(self.config.get("deliver_subject"))

    @property
    def durable(self) -> bool:
        return bool(self.config.get("durable_name"))

    @property
    def filters(self) -> tuple[str, ...]:
        one = self.config.get("filter_subject")
        return (one,) if one else tuple(self.config.get("filter_subjects") or ())

    @property
    def _heartbeat(self) -> float:
        return float(self.config.get("idle_heartbeat") or 0) / NANOSECONDS

    @property
    def _threshold(self) -> float:
        return float(self.config.get("inactive_threshold") or 0) / NANOSECONDS

    @property
    def _ack_wait(self) -> float:
        return float(self.config.get("ack_wait") or 0) / NANOSECONDS

    @property
    def _acks(self) -> str:
        return str(self.config["ack_policy"])

    def _first_sequence(self) -> int:
        stream, config = self.stream, self.config
        policy = config["deliver_policy"]
        first = max(stream.first, 1)
        if policy == "new":
            return stream.last + 1
        if policy == "last":
            found = [stream.last_of(p) for p in self.filters or (">",)]
            return max((m.sequence for m in found if m is not None), default=stream.last + 1)
        if policy == "by_start_sequence":
            return max(int(config["opt_start_seq"]), first)
        if policy == "by_start_time":
            return stream.first_since(parse_time(config["opt_start_time"]))
        return first

    def _last_per_subject(self) -> deque[int] | None:
        if self.config["deliver_policy"] != "last_per_subject":
            return None
        last: dict[str, int] = {}
        for pattern in self.filters:
            for sequence in self.stream.sequences(pattern):
                message = self.stream.get(sequence)
                assert message is not None
                last[message.subject] = sequence
        only = deque(sorted(last.values()))
        self._next = only[0] if only else self.stream.last + 1
        return only

    @property
    def num_pending(self) -> int:
        """What is still to be delivered for the first time."""
        count = 0
        start = self._next
        if self._only is not None:
            count = len(self._only)
            start = self._resume
        seen = self._post.sees(self)
        behind = self.stream.count(max(start, seen + 1), self.filters) if seen >= 0 else 0
        return count + self.stream.count(start, self.filters) - behind

    # --- delivering ------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what can be delivered."""
        if self.gone or self.stalled:
            return
        if self.is_push:
            self._push()
        else:
            self._serve_pulls()

    def _push(self) -> None:
        subject = self.config["deliver_subject"]
        if not self._post.interest(subject, exact=True):
            return
        wrong = ""
        asked = False
        while not self._held_back:
            taken = self._take()
            if taken is None:
                return
            if not asked:
                asked = True
                wrong = self._post.delivers(self)
                if wrong == "stall":
                    self._give_back(*taken)
                    self.stalled = True
                    return
            message, count = taken
            if wrong == "gap":
                wrong = ""
                self._deliver(message, count, "")
                continue
            self._deliver(message, count, subject)
            if wrong == "repeat":
                wrong = ""
                self._send(message, count, self._number, subject)

    @property
    def _held_back(self) -> bool:
        return bool(self.config.get("flow_control")) and self._under_way > self._window

    def _take(self) -> tuple[Message, int] | None:
        """The next message, and how often it was delivered before."""
        limit = int(self.config.get("max_deliver") or -1)
        while self._again:
            sequence = self._again.popleft()
            message = self.stream.get(sequence)
            if message is None or sequence not in self.pending:
                self.pending.pop(sequence, None)
                continue
            count = self.deliveries.get(sequence, 1)
            if 0 < limit <= count:
                self._close(sequence)  # nobody gets it any more
                continue
            return message, count
        most = int(self.config.get("max_ack_pending") or 0)
        if 0 < most <= len(self.pending):
            return None
        seen = self._post.sees(self)
        if self._only is not None:
            while self._only:
                found = self.stream.get(self._only.popleft())
                if found is not None:
                    self._next = found.sequence + 1
                    return found, 0
            self._only = None
            self._next = max(self._next, self._resume)
        found = self.stream.following(self._next, self.filters)
        if found is None or 0 <= seen < found.sequence:
            self._looked = self.stream.last if seen < 0 else min(seen, self.stream.last)
            return None
        self._next = found.sequence + 1
        return found, 0

    def _give_back(self, message: Message, count: int) -> None:
        if count:
            self._again.appendleft(message.sequence)
        elif self._only is not None:
            self._only.appendleft(message.sequence)
        else:
            self._next = message.sequence

    def _deliver(self, message: Message, count: int, to: str) -> None:
        """``to``: empty if it gets lost on the way."""
        sequence = message.sequence
        self._number += 1
        now = self._post.time()
        self.delivered = (self._number, max(sequence, self.delivered[1]))
        self._delivered_ns = self._post.now_ns()
        if self._acks == "none":
            self.floor = (self._number, sequence)
        else:
            known = self.pending.get(sequence)
            if known is None:
                self.pending[sequence] = Pending(self._number, now)
            else:
                known.since = now
            if count:
                self.deliveries[sequence] = count + 1
            self._wait_for_acks()
        self._send(message, count, self._number, to)

    def _send(self, message: Message, count: int, number: int, to: str) -> None:
        reply = self._ack_subject(message, count, number)
        headers, payload = message.headers, message.payload
        if self.config.get("headers_only"):
            start = headers[:-2] if headers else b"NATS/1.0\r\n"
            headers = start + b"Nats-Msg-Size: %d\r\n\r\n" % len(payload)
            payload = b""
        self._heard = self._post.time()
        size = len(message.subject) + len(reply) + len(headers) + len(payload)
        if self.config.get("flow_control"):
            self._under_way += size
        if to:
            self._post.send(message.subject, reply, headers, payload, to)
        if self.config.get("flow_control"):
            self._ask_for_flow()

    def _ack_subject(self, message: Message, count: int, number: int) -> str:
        return (
            f"$JS.ACK.{self.stream.name}.{self.name}.{count + 1}.{message.sequence}.{number}"
            f".{message.time_ns}.{self.num_pending}"
        )

    # --- heartbeats and flow control (ADR-9, ADR-15) ---------------------------------

    def _beat(self) -> None:
        self._beating = bool(self._heartbeat) and not self.gone
        if not self._beating:
            return
        due = self._heard + self._heartbeat
        now = self._post.time()
        if now >= due:
            self._heard = now
            if not self.stalled:
                self._say_idle(
                    self.config["deliver_subject"], self._flow if self._held_back else ""
                )
            due = now + self._heartbeat
        self._post.after(due - now, self._beat)

    def _say_idle(self, to: str, stalled: str = "") -> None:
        words = (
            f"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: {self._number}\r\n"
            f"Nats-Last-Stream: {max(self.delivered[1], self._looked)}\r\n"
        )
        if stalled:
            words += f"Nats-Consumer-Stalled: {stalled}\r\n"
        self._post.send(to, "", f"{words}\r\n".encode(), b"", to)

    def _ask_for_flow(self) -> None:
        if self._flow or self._under_way <= self._window // 2:
            return
        self._flow_count += 1
        self._flow = f"$JS.FC.{self.stream.name}.{self.name}.{self._flow_count}"
        self._flow_bytes = self._under_way
        to = self.config["deliver_subject"]
        self._post.send(to, self._flow, b"NATS/1.0 100 FlowControl Request\r\n\r\n", b"", to)

    def flow(self, subject: str) -> None:
        """A client has taken what came before a flow control request."""
        if subject == self._flow:
            self._under_way -= self._flow_bytes
            self._window = min(self._window * 2, _FLOW_WINDOW_MAX)
            self._flow = ""
            self._ask_for_flow()
            self.pump()

    # --- pulls -----------------------------------------------------------------------

    def pull(self, reply: str, request: bytes) -> None:
        """A request for messages (``CONSUMER.MSG.NEXT``)."""
        try:
            pull = parse_pull(reply, request, self.config, self._post.time())
        except BadPull as refusal:
            self._refuse(reply, str(refusal))
            return
        self._active_since = self._post.time()
        if len(self.waiting) >= int(self.config.get("max_waiting") or 512):
            self._forget_ended()
        if len(self.waiting) >= int(self.config.get("max_waiting") or 512):
            self._refuse(reply, "409 Exceeded MaxWaiting")
            return
        self.waiting.append(pull)
        self.pump()
        if pull not in self.waiting:
            return
        if pull.no_wait and not pull.until:
            self.waiting.remove(pull)
            if not self.stalled:
                self._refuse(pull.reply, "404 No Messages")
            return
        if pull.until:
            self._post.after(pull.until - self._post.time(), self._forget_ended)
        if pull.heartbeat:
            self._beat_pull(pull)

    def _refuse(self, to: str, status: str, words: str = "") -> None:
        more = f"{words}\r\n" if words else ""
        self._post.send(to, "", f"NATS/1.0 {status}\r\n{more}\r\n".encode(), b"", to)

    def _time_out(self, pull: Pull, status: str = "408 Request Timeout") -> None:
        self._refuse(pull.reply, status, _PULL_BYTES.format(pull.left, pull.bytes_left))

    def _serve_pulls(self) -> None:
        self._forget_ended()
        while self.waiting:
            taken = self._take()
            if taken is None:
                return
            pull = self.waiting[0]
            message, count = taken
            if self._post.delivers(self) == "stall":
                self._give_back(message, count)
                self.stalled = True
                return
            if pull.bytes_left:
                size = message.size + len(self._ack_subject(message, count, self._number + 1))
                if size > pull.bytes_left:
                    self._give_back(message, count)
                    self.waiting.popleft()
                    self._time_out(pull, "409 Message Size Exceeds MaxBytes")
                    continue
                pull.bytes_left -= size
            pull.left -= 1
            pull.heard = self._post.time()
            self.waiting.popleft()  # the next one is for who has waited longest
            if pull.left:
                self.waiting.append(pull)
            self._deliver(message, count, pull.reply)

    def _forget_ended(self) -> None:
        if self.gone:
            return
        now = self._post.time()
        for pull in list(self.waiting):
            if pull.until and pull.until <= now:
                self.waiting.remove(pull)
                self._time_out(pull)
            elif not self._post.interest(pull.reply):
                self.waiting.remove(pull)

    def _beat_pull(self, pull: Pull) -> None:
        def beat() -> None:
            if self.gone or pull not in self.waiting:
                return
            now = self._post.time()
            if now >= pull.heard + pull.heartbeat:
                pull.heard = now
                self._say_idle(pull.reply)
            self._post.after(max(pull.heard + pull.heartbeat - now, 0.001), beat)

        self._post.after(pull.heartbeat, beat)

    # --- acks ------------------------------------------------------------------------

    def ack(self, sequence: int, word: bytes, reply: str = "") -> None:
        """What a client says of a message that it got; ``reply``: where he wants an answer."""
        kind, _, rest = word.decode(errors="replace").partition(" ")
        if kind == "+NXT":
            self._settle(sequence)
            self.pull(reply, rest.encode())
            return
        if kind in ("", "+ACK", "+OK", "+TERM"):
            self._settle(sequence)
        elif kind == "-NAK":
            delay = 0.0
            if rest.strip():
                try:
                    fields = json.loads(rest)
                except ValueError:
                    fields = {}
                delay = int(fields.get("delay") or 0) / NANOSECONDS
            self._nak(sequence, delay)
        elif kind == "+WPI" and sequence in self.pending:
            self.pending[sequence].since = self._post.time()
            self._later.pop(sequence, None)
        self.pump()

    def _settle(self, sequence: int) -> None:
        """It is acknowledged."""
        self._acked_ns = self._post.now_ns()
        known = self.pending.get(sequence)
        if known is None:
            return
        if self._acks == "all":
            for earlier in [s for s in self.pending if s <= sequence]:
                self._drop(earlier)
                self._done(earlier)
            self.floor = (max(known.number, self.floor[0]), max(sequence, self.floor[1]))
            return
        self._close(sequence)
        self._done(sequence)

    def _close(self, sequence: int) -> None:
        """No ack of it is waited for any more."""
        number = self.pending[sequence].number
        self._drop(sequence)
        if not self.pending:
            self.floor = (self._number, max(self.delivered[1], self.floor[1]))
        elif number == self.floor[0] + 1:
            lowest = min(self.pending)
            self.floor = (min(p.number for p in self.pending.values()) - 1, lowest - 1)

    def _done(self, sequence: int) -> None:
        """A work queue has no use for it any more."""
        if self.stream.config["retention"] == "workqueue" and self.stream.get(sequence):
            self.stream.remove(sequence)

    def _drop(self, sequence: int) -> None:
        self.pending.pop(sequence, None)
        self.deliveries.pop(sequence, None)
        self._later.pop(sequence, None)
        if sequence in self._again:
            self._again.remove(sequence)

    def _nak(self, sequence: int, delay: float) -> None:
        if sequence not in self.pending or sequence in self._again:
            return
        if delay:
            self._later[sequence] = self._post.time() + delay
            self._post.after(delay, self._redeliver)
        else:
            self._queue_again(sequence)

    def _queue_again(self, sequence: int) -> None:
        self.deliveries.setdefault(sequence, 1)
        self._again.append(sequence)

    def _wait_for_acks(self) -> None:
        """See to it that somebody looks when the oldest is due."""
        due = self._post.time() + self._ack_wait
        if self._ack_wait and not self._ack_timer:
            self._ack_timer = due
            self._post.after(self._ack_wait, self._redeliver)

    def _redeliver(self) -> None:
        """What was not acknowledged in time is to be delivered again."""
        if self.gone:
            return
        now = self._post.time()
        self._ack_timer = 0.0
        soonest = 0.0
        for sequence, pending in sorted(self.pending.items()):
            if sequence in self._again:
                continue
            due = self._later.get(sequence, pending.since + self._ack_wait)
            if due <= now + 1e-9:
                self._later.pop(sequence, None)
                pending.since = now
                self._queue_again(sequence)
            elif not soonest or due < soonest:
                soonest = due
        if soonest:
            self._ack_timer = soonest
            self._post.after(soonest - now, self._redeliver)
        self.pump()

    # --- what happens to it ----------------------------------------------------------

    def _watch_interest(self) -> None:
        self._watching = bool(self._threshold) and not self.gone
        if not self._watching:
            return
        now = self._post.time()
        subject = self.config.get("deliver_subject")
        if (subject and self._post.interest(subject, exact=True)) or self.waiting:
            self._active_since = now
        if now - self._active_since >= self._threshold:
            self._post.ended(self)
            self.delete("")
            return
        self._post.after(self._threshold / 4, self._watch_interest)

    def delete(self, reason: str = "409 Consumer Deleted") -> None:
        """It is there no more; who waits for it is told the reason, unless there is none."""
        self.gone = True
        waiting, self.waiting = self.waiting, deque()
        for pull in waiting if reason else ():
            self._refuse(pull.reply, reason)
        if self.is_push and reason:
            to = self.config["deliver_subject"]
            self._post.send(to, "", f"NATS/1.0 {reason}\r\n\r\n".encode(), b"", to)

    def restart(self) -> None:
        """Its server has started again: what was asked of it is forgotten."""
        self.waiting.clear()
        self.stalled = False
        self._under_way = 0
        self._flow = ""
        self._again = deque(sorted(self.pending))
        for sequence in self._again:
            self.deliveries.setdefault(sequence, 1)
        self._later.clear()

    def reset(self, sequence: int) -> int:
        """Begin anew at a sequence, or with what follows the floor (ADR-60). Raises ApiError."""
        start = sequence or self.floor[1] + 1
        policy = self.config["deliver_policy"]
        if policy not in ("all", "by_start_sequence", "by_start_time"):
            raise ApiError(400, 10204, "invalid reset: not allowed")
        if start < int(self.config.get("opt_start_seq") or 0):
            raise ApiError(400, 10204, "invalid reset: below start seq")
        self._next = max(start, 1)
        self._only = None
        self._number = 0
        self.floor = self.delivered = (0, self._next - 1)
        self.pending.clear()
        self.deliveries.clear()
        self._again.clear()
        self._later.clear()
        self.pump()
        return self._next

    def info(self) -> dict[str, Any]:
        """As JetStream tells it."""
        if self.pending:
            lowest = min(self.pending)
            floor = (self.floor[0], min(self.floor[1], lowest - 1))
        else:
            floor = self.floor
        delivered: dict[str, Any] = {
            "consumer_seq": self.delivered[0],
            "stream_seq": self.delivered[1],
        }
        acked: dict[str, Any] = {"consumer_seq": floor[0], "stream_seq": floor[1]}
        if self._delivered_ns:
            delivered["last_active"] = format_time(self._delivered_ns)
        if self._acked_ns:
            acked["last_active"] = format_time(self._acked_ns)
        return {
            "delivered": delivered,
            "ack_floor": acked,
            "num_ack_pending": len(self.pending),
            "num_redelivered": len(self.deliveries),
            "num_waiting": len(self.waiting),
            "num_pending": self.num_pending,
        }

    def purged(self) -> None:
        """Messages were taken out of its stream."""
        for sequence in [s for s in self.pending if self.stream.get(s) is None]:
            self._drop(sequence)
        before = max(self.stream.first - 1, 0)
        self._next = max(self._next, before + 1)
        self.delivered = (self.delivered[0], max(self.delivered[1], before))
        if not self.pending:
            self.floor = (self._number, max(self.floor[1], before))

    def truncate(self, last: int) -> None:
        """Its stream has lost what came after."""
        self._next = min(self._next, last + 1)
        self.delivered = (self.delivered[0], min(self.delivered[1], last))
        self.floor = (self.floor[0], min(self.floor[1], last))
        for sequence in [s for s in self.pending if s > last]:
            self._drop(sequence)
