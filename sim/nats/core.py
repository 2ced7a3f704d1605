"""Core NATS: connections, what they listen to, and who gets what is published.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol, ADR-4 (headers).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sim.nats.subjects import is_pattern, is_valid, matches

Send = Callable[[int, str, str, bytes, bytes], None]
"""``sid, subject, reply, headers, payload`` to one client."""

Taker = Callable[[str, str, bytes, bytes], bool]
"""``subject, reply, headers, payload``; whether it was something for it."""


@dataclass(slots=True, eq=False)
class Sub:
    """``had``: messages so far; it ends by itself after ``most``, if that is not 0."""

    peer: Peer
    sid: int
    subject: str
    queue: str = ""
    had: int = 0
    most: int = 0


@dataclass(slots=True, eq=False)
class Peer:
    """The server's side of one connection. ``close(reason)`` ends it; ``host``: of the server,
    where there are several."""

    send: Send
    close: Callable[[str], None]
    host: str = ""
    subs: dict[int, Sub] = field(default_factory=dict)
    gone: bool = False


class Core:
    """``take`` is asked of each message first: so JetStream gets its own. ``found_interest`` is
    told of each subject that somebody subscribes to."""

    def __init__(self, chance: random.Random, *, max_payload: int = 8 * 1024 * 1024) -> None:
        self.max_payload = max_payload
        self.take: Taker = lambda subject, reply, headers, payload: False
        self.found_interest: Callable[[str], None] = lambda subject: None
        self._chance = chance
        self.peers: list[Peer] = []
        self._literal: dict[str, list[Sub]] = {}
        self._star: dict[str, list[Sub]] = {}
        """Patterns like ``a.b.*``, as every client has one for its answers, by ``a.b``."""
        self._patterns: dict[str, list[Sub]] = {}

    def accept(self, send: Send, close: Callable[[str], None], host: str = "") -> Peer:
        peer = Peer(send, close, host)
        self.peers.append(peer)
        return peer

    def leave(self, peer: Peer) -> None:
        """The connection is gone, and the server knows it."""
        if peer.gone:
            return
        peer.gone = True
        self.peers.remove(peer)
        for sub in list(peer.subs.values()):
            self._remove(sub)

    # --- commands --------------------------------------------------------------------

    def subscribe(self, peer: Peer, sid: int, subject: str, queue: str = "") -> None:
        if peer.gone:
            return
        if not is_valid(subject):
            peer.close("invalid subject")
            return
        self.unsubscribe(peer, sid)
        sub = peer.subs[sid] = Sub(peer, sid, subject, queue)
        shelves, key = self._place(subject)
        shelves.setdefault(key, []).append(sub)
        self.found_interest(subject)

    def unsubscribe(self, peer: Peer, sid: int, after: int = 0) -> None:
        sub = peer.subs.get(sid)
        if sub is None:
            return
        if after > sub.had:
            sub.most = after
        else:
            self._remove(sub)

    def publish(self, peer: Peer, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if peer.gone:
            return
        if len(headers) + len(payload) > self.max_payload:
            peer.close("maximum payload violation")
            return
        found = self.take(subject, reply, headers, payload)
        found = bool(self.route(subject, reply, headers, payload)) or found
        if not found and reply:
            words = f"NATS/1.0 503\r\nNats-Subject: {subject}\r\n\r\n"
            self.route(reply, "", words.encode(), b"")

    # --- routing ---------------------------------------------------------------------

    def listeners(self, subject: str) -> list[Sub]:
        """All, of a queue group one."""
        found = list(self._literal.get(subject, ()))
        found += self._star.get(subject.rpartition(".")[0], ())
        found += self._by_pattern(subject)
        if any(s.queue for s in found):
            groups: dict[str, list[Sub]] = {}
            for sub in found:
                if sub.queue:
                    groups.setdefault(sub.queue, []).append(sub)
            found = [s for s in found if not s.queue]
            found += [self._chance.choice(group) for group in groups.values()]
        return found

    def interest(self, subject: str, *, exact: bool = False) -> bool:
        """Whether somebody listens; ``exact``: to the very subject, by no pattern."""
        if exact or subject in self._literal:
            return subject in self._literal
        return subject.rpartition(".")[0] in self._star or bool(self._by_pattern(subject))

    def route(
        self, subject: str, reply: str, headers: bytes, payload: bytes, to: str | None = None
    ) -> int:
        """Hand it to who listens to ``to`` (default: its subject); to how many."""
        found = self.listeners(subject if to is None else to)
        for sub in found:
            sub.peer.send(sub.sid, subject, reply, headers, payload)
            sub.had += 1
            if sub.had == sub.most:
                self._remove(sub)
        return len(found)

    def _by_pattern(self, subject: str) -> list[Sub]:
        found = [subs for pattern, subs in self._patterns.items() if matches(pattern, subject)]
        return [sub for subs in found for sub in subs]

    def _place(self, subject: str) -> tuple[dict[str, list[Sub]], str]:
        """Where subscriptions to it are kept, and under which key."""
        if not is_pattern(subject):
            return self._literal, subject
        prefix, _, last = subject.rpartition(".")
        if last == "*" and prefix and not is_pattern(prefix):
            return self._star, prefix
        return self._patterns, subject

    def _remove(self, sub: Sub) -> None:
        if sub.peer.subs.get(sub.sid) is sub:
            del sub.peer.subs[sub.sid]
        shelves, key = self._place(sub.subject)
        shelf = shelves.get(key, [])
        if sub in shelf:
            shelf.remove(sub)
            if not shelf:
                del shelves[key]
