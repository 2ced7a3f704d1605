"""The replicated log of one database, as the commit path sees it.

Behind it stands JetStream (:mod:`ha.log.jetstream`), one in memory (:mod:`ha.log.memory`),
or the simulator's. A log is the messages of one subject of a stream: its sequences grow, with
holes where other databases' messages stand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ha.core.errors import Code, HaError


# Values, never changed after they are made. Not frozen: that makes them four times as slow to
# build, and each transaction needs one of each.
@dataclass(slots=True)
class Outgoing:
    """A message to publish. ``expect_last``: refuse unless this is the subject's last sequence."""

    message_id: str
    payload: bytes
    expect_last: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """A message in the log. ``time_ns`` is the broker's, in Unix nanoseconds."""

    sequence: int
    message_id: str
    payload: bytes
    time_ns: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Ack:
    """``duplicate``: the id was known; ``sequence`` is where the first one stands."""

    sequence: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class LogState:
    """``epoch`` names the stream's incarnation; sequences are 0 while there is no message.

    ``first`` and ``last`` bound the stream (any subject); ``subject_first`` and
    ``subject_last`` this log. ``max_age``: seconds after which the stream forgets a message, 0
    for never.
    """

    epoch: str
    first: int
    last: int
    subject_first: int
    subject_last: int
    max_age: float = 0.0


class LogError(Exception):
    """A publish or look-up failed; whether it reached the log is not known."""


class NotSent(LogError):
    """Certain: the log does not hold it. Unless it is Refused, the reason passes by itself (no
    connection, no leader): the same message may be sent again when the log is connected."""


class Refused(NotSent):
    """Certain: the broker refused the message (a limit, no space)."""


class WrongLast(Refused):
    """``expect_last`` did not hold. ``last`` is the subject's last sequence, when told."""

    def __init__(self, message: str, last: int | None = None) -> None:
        super().__init__(message)
        self.last = last


class ResetReason(StrEnum):
    """Why a position in the log is no longer good."""

    EPOCH = "epoch"  # the stream was deleted and made anew: another log
    BEHIND = "behind"  # the stream ends before the position: it lost messages, or was restored
    TRUNCATED = "truncated"  # messages after the position may have been dropped (age, purge)


class LogReset(LogError):
    """The subscription cannot go on without a gap. ``reason`` tells why.

    A subscription after 0 is never TRUNCATED: whether what there is is the whole log is for
    the caller to judge. After TRUNCATED the stream is still the same one: a node that has
    (or fetches) the state before ``first``, the stream's first sequence, may subscribe again
    from ``first - 1``.
    """

    def __init__(self, message: str, reason: ResetReason, first: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.first = first


class NodeNameTaken(HaError):
    """Another live node of this name serves the database: one of them must be renamed."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.ALREADY_EXISTS, message)


AckCallback = Callable[[int, Ack | LogError], None]


class Subscription(Protocol):
    """The messages of the log after a position, in order, without gaps or repetitions."""

    async def receive(self) -> Sequence[Entry]:
        """At least one entry, and all that have arrived. Raises LogReset."""
        ...

    def receive_nowait(self) -> Sequence[Entry]:
        """What has arrived, maybe nothing. Raises LogReset."""
        ...


class Log(Protocol):
    """One database's log. Safe for use by many tasks of one trio run."""

    @property
    def subject(self) -> str: ...

    @property
    def max_payload(self) -> int:
        """Bytes that one message may carry, headers not counted."""
        ...

    @property
    def connected(self) -> bool: ...

    async def wait_connected(self) -> None:
        """Returns when publishing is possible."""
        ...

    async def wait_disconnected(self) -> None:
        """Returns when the connection is lost (at once if there is none)."""
        ...

    def publish(self, messages: Sequence[Outgoing], on_ack: AckCallback) -> None:
        """Send all, in order, in one go; nothing is awaited, nothing is buffered while offline.

        ``on_ack(index, outcome)`` is called later in the trio thread, at most once a message,
        in any order; never when the ack is lost. Raises NotSent if there is no connection, and
        Refused (then nothing is sent at all) if a payload is larger than :attr:`max_payload`.
        """
        ...

    async def publish_one(self, message: Outgoing, timeout: float) -> Ack:
        """Publish and wait for the ack, ``timeout`` seconds at most.

        Raises NotSent, Refused, WrongLast, or LogError when the outcome is not known.
        """
        ...

    def subscribe(self, after: int) -> AbstractAsyncContextManager[Subscription]:
        """Entries with a sequence greater than ``after``. It survives reconnects by itself."""
        ...

    async def state(self) -> LogState:
        """Raises LogError when the broker does not answer."""
        ...

    async def entry(self, sequence: int) -> Entry | None:
        """The message at ``sequence``; None if there is none (any more), or it is not ours."""
        ...

    def history(self, first: int, last: int | None = None) -> AsyncIterator[Entry]:
        """Entries with first ≤ sequence ≤ last (default: the last one there is), in order."""
        ...

    async def sequence_at(self, time_ns: int) -> int:
        """The first sequence whose broker time is ≥ ``time_ns``; last + 1 if there is none."""
        ...

    async def now_ns(self) -> int:
        """The broker's clock, in Unix nanoseconds, as entries are stamped with. Raises LogError."""
        ...

    def nothing_until(self, after: int) -> int:
        """Up to where the log is known to have had no message after the position ``after``,
        whatever the stream has forgotten since; ``after`` if that is not known."""
        ...

    async def mark(self, sequence: int) -> None:
        """Let the node's durable consumer show that ``sequence`` is applied. Never blocks long."""
        ...


class SnapshotInfo(Protocol):
    """A snapshot in the object store."""

    sequence: int
    size: int
    headers: dict[str, str]


class Watch(Protocol):
    """What is said in a catalogue: first the last word under each key, then all that follow."""

    async def receive(self) -> Sequence[bytes]:
        """At least one word, in the order in which they were said. Raises LogReset."""
        ...


class Catalogue(Protocol):
    """What the nodes of a stream tell each other: the last word under each key, for ever.

    Unlike the stream it forgets nothing. All methods raise LogError.
    """

    async def put(self, key: str, word: bytes) -> None: ...

    async def read(self) -> list[bytes]:
        """The last word under each key."""
        ...

    def watch(self) -> AbstractAsyncContextManager[Watch]: ...


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What a key holds. ``value``: None once it is deleted; ``revision``: of the whole bucket,
    it grows with each change of any key."""

    key: str
    value: bytes | None
    revision: int


class WrongRevision(Refused):
    """The key has another revision than expected: nothing was changed. ``revision``: when told."""

    def __init__(self, message: str, revision: int | None = None) -> None:
        super().__init__(message)
        self.revision = revision


class KeyWatch(Protocol):
    """First what each key holds (deletions too), then all changes that follow."""

    async def receive(self) -> Sequence[KeyEntry]:
        """At least one, in the order of their revisions. Raises LogReset: watch anew then."""
        ...


class KeyValue(Protocol):
    """A bucket of small values beside the stream, each change of which is checked by its revision.

    Nothing in it expires: who counts time does so by a clock of his own. Keys are made of
    letters, digits, ``-``, ``_``, ``.``, ``/`` and ``=``. All methods raise LogError when the
    outcome is not known, NotSent when it is certain that nothing was changed.
    """

    async def get(self, key: str) -> KeyEntry | None:
        """Answered by the bucket's own leader, never from a cache or a follower."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Set it if its revision is still ``revision`` (0: it was never there); the new one.

        Raises WrongRevision.
        """
        ...

    async def put(self, key: str, value: bytes) -> int:
        """Set it, whatever it holds; the new revision."""
        ...

    async def delete(self, key: str) -> None: ...

    def watch(self) -> AbstractAsyncContextManager[KeyWatch]: ...


class Broker(Protocol):
    """What a node holds: one connection, one stream, many logs.

    Used as an async context manager by the node; ``log()`` may be called for any number of
    databases.
    """

    async def log(self, database_id: str) -> Log:
        """The log of a database; its durable consumer exists afterwards."""
        ...

    @property
    def catalogue(self) -> Catalogue: ...

    async def release(self, database_id: str) -> bool:
        """Give a log up: its durable consumer is deleted. True if the log has no other one.

        Raises LogError. ``log()`` may be called again afterwards.
        """
        ...

    async def forget(self, database_id: str) -> None:
        """Delete all messages of a log, and its snapshot, for everybody. Raises LogError."""
        ...

    async def consumers(self, database_id: str) -> list[dict[str, object]]:
        """JetStream's consumer info, as JSON, of all consumers of the database's subject."""
        ...

    async def delete_consumer(self, database_id: str, name: str) -> bool: ...

    async def put_snapshot(
        self, database_id: str, chunks: AsyncIterator[bytes], headers: dict[str, str]
    ) -> None:
        """Whole or not at all: the former one stays readable until this one is.

        It replaces the one that is there before the first chunk is asked for; raises WrongLast
        when another was put meanwhile.
        """
        ...

    async def snapshot_headers(self, database_id: str) -> dict[str, str] | None: ...

    def get_snapshot(self, database_id: str) -> AsyncIterator[bytes]: ...
