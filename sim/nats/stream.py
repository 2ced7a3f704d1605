"""One stream: its messages, its limits, and the window in which it knows their ids.

Source: nats-server 2.15 (``server/stream.go``, ``server/filestore.go``), as far as
``tests/unit/test_jetstream_conformance.py`` compares it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ha.log.nats_wire import decode_headers
from sim.nats import errors
from sim.nats.errors import ApiError
from sim.nats.subjects import is_pattern, matches

NANOSECONDS = 10**9
_OVERHEAD = {"file": (30, 4), "memory": (16, 0)}
"""Bytes that a store needs for a message beyond its text, and more for one with headers."""

_MARKER = b"Nats-Marker-Reason"

DEFAULTS: dict[str, Any] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 120 * NANOSECONDS,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}


@dataclass(frozen=True, slots=True)
class Message:
    """``time_ns``: the server's clock when it came."""

    sequence: int
    subject: str
    headers: bytes
    payload: bytes
    time_ns: int

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return len(self.subject) + len(self.headers) + len(self.payload)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a publish came to."""

    sequence: int
    duplicate: bool = False


class Stream:
    """``now_ns`` and ``time`` are the server's clock, in Unix nanoseconds and in seconds that
    never jump; ``at(time, work)`` calls back. ``changed`` is called after each message that came
    or went. ``clustered``: it asks for a message's id before what it expects.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        created: int,
        now_ns: Callable[[], int],
        time: Callable[[], float],
        at: Callable[[float, Callable[[], None]], None],
        clustered: bool = False,
    ) -> None:
        self.config = config
        self.created = created
        self.clustered = clustered
        self.first = 0
        self.last = 0
        self.last_ns = 0
        self.bytes = 0
        self.changed: Callable[[], None] = lambda: None
        self.may_age: Callable[[int], bool] = lambda _: True
        """For scripts: says of a sequence that is too old whether it goes. With NATS it does."""
        self._now_ns = now_ns
        self._time = time
        self._at = at
        self._messages: dict[int, Message] = {}
        self._order: list[int] = []
        self._of: dict[str, list[int]] = {}
        self._ids: dict[str, tuple[int, float]] = {}
        self._last_id = ""
        self._since: dict[int, float] = {}
        """When each message came, and when those with a time of their own are to go."""
        self._until: dict[int, float] = {}

    @property
    def name(self) -> str:
        return str(self.config["name"])

    def takes(self, subject: str) -> bool:
        return any(matches(p, subject) for p in self.config["subjects"])

    def __len__(self) -> int:
        return len(self._messages)

    def _size(self, message: Message) -> int:
        """Bytes in the store."""
        overhead, of_headers = _OVERHEAD[self.config["storage"]]
        return overhead + message.size + (of_headers if message.headers else 0)

    # --- reading ---------------------------------------------------------------------

    def get(self, sequence: int) -> Message | None:
        return self._messages.get(sequence)

    def sequences(self, pattern: str = ">") -> list[int]:
        """Of all messages whose subject is meant, in order."""
        if pattern == ">":
            return self._order
        if not is_pattern(pattern):
            return self._of.get(pattern, [])
        found: list[int] = []
        for subject, numbers in self._of.items():
            if matches(pattern, subject):
                found += numbers
        found.sort()
        return found

    def following(self, sequence: int, patterns: tuple[str, ...]) -> Message | None:
        """The first at or after a sequence that one of the patterns means."""
        best = 0
        for pattern in patterns or (">",):
            numbers = self.sequences(pattern)
            place = bisect_left(numbers, sequence)
            if place < len(numbers) and (not best or numbers[place] < best):
                best = numbers[place]
        return self._messages[best] if best else None

    def count(self, sequence: int, patterns: tuple[str, ...]) -> int:
        """How many there are at or after a sequence. The patterns do not overlap."""
        total = 0
        for pattern in patterns or (">",):
            numbers = self.sequences(pattern)
            total += len(numbers) - bisect_left(numbers, sequence)
        return total

    def last_of(self, pattern: str) -> Message | None:
        numbers = self.sequences(pattern)
        return self._messages[numbers[-1]] if numbers else None

    def subjects(self, pattern: str) -> dict[str, int]:
        """How many messages each has."""
        found = {s: len(n) for s, n in self._of.items() if n and matches(pattern, s)}
        return dict(sorted(found.items()))

    def first_since(self, time_ns: int) -> int:
        """The first that came at that time or later; the next one if there is none."""
        for sequence in self._order:
            if self._messages[sequence].time_ns >= time_ns:
                return sequence
        return self.last + 1

    def missing(self) -> Iterator[int]:
        """Between the first and the last one."""
        return (n for n in range(self.first, self.last + 1) if n not in self._messages)

    # --- writing ---------------------------------------------------------------------

    def store(self, subject: str, headers: bytes, payload: bytes) -> Stored:
        """Raises ApiError."""
        self.expire()
        words = decode_headers(headers) if headers else {}
        message_id = words.get("Nats-Msg-Id", "")
        known = self._known(message_id)
        if words.get("Nats-Expected-Stream", self.name) != self.name:
            raise ApiError(400, 10060, "expected stream does not match")
        if known is not None and self.clustered:
            return Stored(known, duplicate=True)
        self._check_sequence(subject, words)
        limit = self.config["max_msg_size"]
        if 0 <= limit < len(headers) + len(payload):
            raise ApiError(400, 10054, "message size exceeds maximum allowed")
        if known is not None:
            return Stored(known, duplicate=True)
        if words.get("Nats-Expected-Last-Msg-Id", self._last_id) != self._last_id:
            raise ApiError(400, 10070, f"wrong last msg ID: {self._last_id}")
        lifetime = self._lifetime(words)
        rollup = words.get("Nats-Rollup", "").lower()
        if rollup:
            self._check_rollup(rollup)
        self._check_room(subject, headers, payload)
        self.last += 1
        message = Message(self.last, subject, headers, payload, self._now_ns())
        self.last_ns = message.time_ns
        self._add(message, lifetime)
        if message_id:
            self._ids[message_id] = (self.last, self._time())
        self._last_id = message_id
        if rollup:
            self.purge(subject if rollup == "sub" else ">", keep=1)
        self._enforce(subject)
        self.changed()
        return Stored(message.sequence)

    def _known(self, message_id: str) -> int | None:
        known = self._ids.get(message_id) if message_id else None
        window: int = self.config["duplicate_window"]
        if known is None or self._time() - known[1] >= window / NANOSECONDS:
            return None
        return known[0]

    def _check_sequence(self, subject: str, words: dict[str, str]) -> None:
        if words.get("Nats-Expected-Last-Sequence", str(self.last)) != str(self.last):
            raise errors.wrong_last(self.last)
        wanted = words.get("Nats-Expected-Last-Subject-Sequence")
        if wanted is not None:
            about = words.get("Nats-Expected-Last-Subject-Sequence-Subject", subject)
            found = self.last_of(about)
            last = 0 if found is None else found.sequence
            if wanted != str(last):
                raise errors.wrong_last(last)

    def _check_rollup(self, rollup: str) -> None:
        if not self.config["allow_rollup_hdrs"] or self.config["deny_purge"]:
            raise ApiError(500, 10111, "rollup not permitted")
        if rollup not in ("sub", "all"):
            raise ApiError(500, 10111, f'rollup value invalid: "{rollup}"')

    def _lifetime(self, words: dict[str, str]) -> float | None:
        """Seconds, of a message that has a time of its own."""
        text = words.get("Nats-TTL")
        if text is None:
            return None
        if not self.config["allow_msg_ttl"]:
            raise ApiError(400, 10166, "per-message TTL is disabled")
        if text == "never":
            return float("inf")
        try:
            seconds = float(text) if text.isdigit() else _seconds(text)
        except ValueError:
            seconds = -1.0
        if seconds < 1:
            raise ApiError(400, 10165, "invalid per-message TTL")
        return seconds

    def _check_room(self, subject: str, headers: bytes, payload: bytes) -> None:
        config = self.config
        if config["discard"] != "new":
            return
        per_subject: int = config["max_msgs_per_subject"]
        if config.get("discard_new_per_subject") and 0 < per_subject <= len(
            self._of.get(subject, ())
        ):
            raise errors.store_failed("maximum messages per subject exceeded")
        replaced = self._replaced(subject)
        if 0 < config["max_msgs"] <= len(self) - (replaced is not None):
            raise errors.store_failed("maximum messages exceeded")
        size = self._size(Message(0, subject, headers, payload, 0))
        freed = 0 if replaced is None else self._size(replaced)
        if 0 < config["max_bytes"] < self.bytes - freed + size:
            raise errors.store_failed("maximum bytes exceeded")

    def _replaced(self, subject: str) -> Message | None:
        """The message that the next one of its subject will push out."""
        limit: int = self.config["max_msgs_per_subject"]
        numbers = self._of.get(subject, [])
        return self._messages[numbers[0]] if 0 < limit <= len(numbers) else None

    def _add(self, message: Message, lifetime: float | None) -> None:
        sequence = message.sequence
        if not self._messages:
            self.first = sequence
        self._messages[sequence] = message
        self._order.append(sequence)
        self._of.setdefault(message.subject, []).append(sequence)
        self.bytes += self._size(message)
        now = self._time()
        self._since[sequence] = now
        if lifetime is not None:
            self._until[sequence] = now + lifetime
            if lifetime != float("inf"):
                self._at(now + lifetime, self.expire)
        max_age: int = self.config["max_age"]
        if max_age:
            self._at(now + max_age / NANOSECONDS, self.expire)

    def _enforce(self, subject: str) -> None:
        config = self.config
        limit: int = config["max_msgs_per_subject"]
        numbers = self._of.get(subject, [])
        while 0 < limit < len(numbers):
            self.remove(numbers[0])
        while 0 < config["max_msgs"] < len(self) or 0 < config["max_bytes"] < self.bytes:
            self.remove(self._order[0])

    def enforce(self) -> None:
        """All limits, after they have changed."""
        for subject in list(self._of):
            self._enforce(subject)
        self.expire()

    def expire(self) -> None:
        """Let go of what is too old."""
        now = self._time()
        max_age: float = self.config["max_age"] / NANOSECONDS
        gone = [n for n, until in self._until.items() if until <= now]
        if max_age:
            for sequence in self._order:
                if self._since[sequence] + max_age > now or not self.may_age(sequence):
                    break
                if sequence not in self._until:
                    gone.append(sequence)
        for sequence in gone:
            self._expire_one(sequence)
        if gone:
            self.changed()

    def _expire_one(self, sequence: int) -> None:
        """If it was the last one of its subject, a marker may be wanted in its place."""
        message = self._messages[sequence]
        self.remove(sequence)
        marker_ttl: int = self.config.get("subject_delete_marker_ttl") or 0
        if not marker_ttl or message.subject in self._of or _MARKER in message.headers:
            return
        seconds = marker_ttl // NANOSECONDS
        words = f"{_MARKER.decode()}: MaxAge\r\nNats-TTL: {seconds}s\r\nNats-Rollup: sub\r\n\r\n"
        self.last += 1
        marker = Message(
            self.last, message.subject, b"NATS/1.0\r\n" + words.encode(), b"", self._now_ns()
        )
        self.last_ns = marker.time_ns
        self._add(marker, float(seconds))

    def remove(self, sequence: int) -> None:
        """It must be there."""
        message = self._messages.pop(sequence)
        del self._order[bisect_left(self._order, sequence)]
        numbers = self._of[message.subject]
        del numbers[bisect_left(numbers, sequence)]
        if not numbers:
            del self._of[message.subject]
        self.bytes -= self._size(message)
        del self._since[sequence]
        self._until.pop(sequence, None)
        if sequence == self.first or not self._order:
            self.first = self._order[0] if self._order else self.last + 1

    def purge(self, pattern: str = ">", *, before: int | None = None, keep: int = 0) -> int:
        """Let go of all that is meant, but for the last ``keep``; how many."""
        numbers = list(self.sequences(pattern))
        if before is not None:
            numbers = numbers[: bisect_left(numbers, before)]
        if keep:
            numbers = numbers[:-keep]
        for sequence in numbers:
            self.remove(sequence)
        if before is not None and pattern == ">":
            self._skip_to(before)
        if numbers:
            self.changed()
        return len(numbers)

    def _skip_to(self, sequence: int) -> None:
        """All before it counts as having been, though it may never have come."""
        if sequence > self.last:
            self.last = max(self.last, sequence - 1)
        if not self._order:
            self.first = self.last + 1

    # --- power -----------------------------------------------------------------------

    def truncate(self, last: int) -> None:
        """As if what came after had never been."""
        for sequence in self._order[bisect_right(self._order, last) :]:
            self.remove(sequence)
        self.last = last
        self.first = self._order[0] if self._order else (last + 1 if last else 0)
        self._forget_the_future()
        self.changed()

    def _forget_the_future(self) -> None:
        self._ids = {i: x for i, x in self._ids.items() if x[0] <= self.last}
        end = self._messages.get(self.last)
        self.last_ns = 0 if end is None else end.time_ns
        words = {} if end is None else decode_headers(end.headers)
        self._last_id = words.get("Nats-Msg-Id", "")

    def image(self) -> tuple[int, int, dict[int, tuple[Message, float]]]:
        """All that it holds, for :meth:`restore`."""
        held = {n: (m, self._since[n]) for n, m in self._messages.items()}
        return self.first, self.last, held

    def restore(self, image: tuple[int, int, dict[int, tuple[Message, float]]]) -> None:
        """Be again what it was."""
        self.first, self.last, held = image
        self._messages = {n: m for n, (m, _) in held.items()}
        self._since = {n: since for n, (_, since) in held.items()}
        self._order = sorted(held)
        self._of = {}
        for message in self._messages.values():
            insort(self._of.setdefault(message.subject, []), message.sequence)
        self._until = {n: t for n, t in self._until.items() if n in held}
        self.bytes = sum(self._size(m) for m in self._messages.values())
        self._forget_the_future()
        self.changed()


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    """A duration as Go writes it, of one unit. Raises ValueError."""
    for unit, seconds in _UNITS.items():
        if text.endswith(unit) and text[: -len(unit)].replace(".", "", 1).isdigit():
            return float(text[: -len(unit)]) * seconds
    raise ValueError(text)
