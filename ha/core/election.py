"""Who holds the lease of the leader: a state machine without clock, network or chance.

The lease is one key of a bucket in which each change is checked against the revision that it
replaces. Whoever holds it renews it well before it ends; whoever has not seen it change for
longer than it lasts takes it, with the next term. Two counts of time are never compared:

* The holder counts from *before* it sent the renewal that the bucket took.
* Others count from when *they saw* the last change, and longer, by the clock bound.

So the holder stops before anybody else may begin, as long as no clock runs more than
``clock_bound`` faster than another; what the clocks say, and whether they jump, is nothing to
this. What a leader may write does not rest on it: the log decides (:mod:`ha.core.fold`).

Times are seconds of the node's own monotonic clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias

CLOCK_BOUND = 0.1
"""How much faster than another's a node's clock may run: 0.1 is a tenth."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the key holds. ``holder``: the process, empty once it gave the lease back; ``name`` and
    ``address``: of its node; ``lease``: seconds; ``beat``: tells its writes apart."""

    term: int
    holder: str
    name: str
    address: str
    lease: float
    beat: int

    def to_bytes(self) -> bytes:
        return json.dumps(
            {
                "term": self.term,
                "holder": self.holder,
                "name": self.name,
                "address": self.address,
                "lease_ms": round(self.lease * 1000),
                "beat": self.beat,
            }
        ).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Record:
        """Raises ValueError."""
        try:
            members = json.loads(raw)
            return cls(
                term=int(members["term"]),
                holder=str(members["holder"]),
                name=str(members["name"]),
                address=str(members["address"]),
                lease=int(members["lease_ms"]) / 1000,
                beat=int(members["beat"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a lease: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Write:
    """Set the key to ``record`` if its revision is still ``revision``. To be answered by
    :meth:`Election.wrote`, :meth:`Election.refused` or :meth:`Election.unclear`."""

    record: Record
    revision: int


@dataclass(frozen=True, slots=True)
class Read:
    """Ask what the key holds. To be answered by :meth:`Election.read` or
    :meth:`Election.unread`."""


Effect: TypeAlias = Write | Read


@dataclass(frozen=True, slots=True)
class _Sent:
    record: Record
    at: float


class Election:
    """One process's part in the election. ``holder``: its unique name; ``renew``: seconds from
    one renewal to the next. An effect is answered before the next one is asked for, unless the
    answer does not come: then by ``unclear`` or ``unread``; the real one may still come later."""

    def __init__(
        self,
        holder: str,
        name: str,
        address: str,
        *,
        lease: float = 2.0,
        renew: float = 0.5,
        clock_bound: float = CLOCK_BOUND,
    ) -> None:
        self.holder = holder
        self.term = 0
        """The highest term known."""
        self.record: Record | None = None
        """What the key held when it was seen last."""
        self.revision = 0
        self.seen_at = float("-inf")
        self.lease_until = float("-inf")
        self.beat = 0
        """Of the last write that was sent."""
        self.confirmed = 0
        """Of the last write that the bucket took: nobody else had the lease then."""
        self.reluctance = 0.0
        """Seconds that others are given to come first."""
        self.campaigns = 0
        self._name = name
        self._address = address
        self._lease = lease
        self._renew = renew
        self._stretch = 1.0 + clock_bound
        self._foreign = 0
        self._sent: dict[int, _Sent] = {}
        self._last_sent = float("-inf")
        self._writing: int | None = None
        self._reading: int | None = None
        self._doubtful = True
        self._hurry = False
        self._resigned = False
        self._stepping_down = False
        self._gave_back = False

    # --- what is so ------------------------------------------------------------------

    def holds(self, now: float) -> bool:
        """May this process act as the leader?"""
        return self._is_mine and now < self.lease_until and not self._leaves

    @property
    def _leaves(self) -> bool:
        return self._resigned or self._stepping_down

    @property
    def _is_mine(self) -> bool:
        return self.record is not None and self.record.holder == self.holder

    def leader(self, now: float) -> Record | None:
        """Who holds the lease, as far as is known."""
        record = self.record
        if record is None or not record.holder:
            return None
        if self._is_mine:
            return record if self.holds(now) else None
        return record if now < self.free_at else None

    @property
    def free_at(self) -> float:
        """When the lease is over, as this process counts it; in the past if it is free."""
        record = self.record
        if record is None:
            if self.revision == 0 and self.term == 0:
                return float("-inf")
            # There was a leader, and the key is gone: it may still count on its lease.
            return self.seen_at + self._lease * self._stretch
        if not record.holder:
            return float("-inf")
        return self.seen_at + record.lease * self._stretch

    @property
    def _mine_at(self) -> float:
        """When this process may take it."""
        return max(self.free_at, self.seen_at) + self.reluctance

    # --- what to do ------------------------------------------------------------------

    def tick(self, now: float) -> Effect | None:
        """The next thing to do, if there is one now."""
        if self._writing is not None or self._reading is not None:
            return None
        if self._doubtful:
            self._reading = self.revision
            return Read()
        if self._resigned or (self._stepping_down and self._is_mine):
            return self._give_back(now)
        if self._is_mine:
            if now >= self._last_sent + self._renew or self._hurry:
                return self._renewal(now)
            return None
        if now >= self._mine_at:
            self.campaigns += 1
            return self._write(now, self.term + 1)
        return None

    def wake_at(self, now: float) -> float:
        """When to tick next at the latest, if nothing is heard until then."""
        if self._writing is not None or self._reading is not None:
            return self.lease_until if self.holds(now) else float("inf")
        if self._doubtful or (self._leaves and self._is_mine and not self._gave_back):
            return now
        if self._resigned:
            return float("inf")
        if self._is_mine:
            due = now if self._hurry else self._last_sent + self._renew
            return min(due, self.lease_until) if self.holds(now) else due
        if now < self.free_at:
            return self.free_at  # who led is not the leader any more
        return self._mine_at

    def hurry(self) -> None:
        """Renew at once, so that :attr:`confirmed` moves on."""
        self._hurry = True

    def resign(self) -> None:
        """Lead no more, and give the lease back if it is held."""
        self._resigned = True

    def step_down(self) -> None:
        """Give the lease back if it is held, and take part again: see :attr:`reluctance`."""
        self._stepping_down = self._is_mine

    def learned(self, term: int) -> None:
        """A log holds a term that none of ours may be below, and of another process if it is the
        same."""
        self.term = max(self.term, term)
        self._foreign = max(self._foreign, term)
        if self._is_mine and self.record is not None and self.record.term <= term:
            self._hurry = True  # the messages of our term would not count: take a higher one

    def _renewal(self, now: float) -> Write:
        assert self.record is not None
        term = self.record.term
        return self._write(now, term if term > self._foreign else self.term + 1)

    def _give_back(self, now: float) -> Write | None:
        if not self._is_mine or self._gave_back or self.record is None:
            return None
        self._gave_back = True
        return self._write(now, self.record.term, holder="")

    def _write(self, now: float, term: int, holder: str | None = None) -> Write:
        self.beat += 1
        record = Record(
            term=term,
            holder=self.holder if holder is None else holder,
            name=self._name,
            address=self._address,
            lease=self._lease,
            beat=self.beat,
        )
        self._sent[self.beat] = _Sent(record, now)
        self._last_sent = now
        self._hurry = False
        self._writing = self.beat
        return Write(record, self.revision)

    # --- what was heard --------------------------------------------------------------

    def wrote(self, now: float, beat: int, revision: int) -> None:
        """The bucket took the write with this beat."""
        sent = self._sent.get(beat)
        self._end_write(beat)
        if sent is not None and revision > self.revision:
            self._adopt(now, sent.record, revision)

    def refused(self, now: float, beat: int) -> None:
        """The key had another revision."""
        if self._end_write(beat):
            self._doubtful = True
            self._gave_back = False

    def unclear(self, now: float, beat: int) -> None:
        """No answer in time, or none that says whether the bucket took it."""
        if self._end_write(beat):
            self._doubtful = True
            self._gave_back = False

    def read(self, now: float, record: Record | None, revision: int) -> None:
        """The answer to :class:`Read`."""
        asked_at, self._reading = self._reading, None
        self._doubtful = False
        if revision > self.revision:
            self._adopt(now, record, revision)
        elif revision < self.revision and asked_at == self.revision:
            self._adopt(now, record, revision)  # the bucket was made anew
        elif self.seen_at == float("-inf"):
            self._adopt(now, record, revision)

    def unread(self, now: float) -> None:
        self._reading = None

    def heard(self, now: float, record: Record | None, revision: int) -> None:
        """The key was seen to have changed, maybe some time ago."""
        if revision > self.revision:
            self._adopt(now, record, revision)

    def _end_write(self, beat: int) -> bool:
        if self._writing != beat:
            return False
        self._writing = None
        return True

    def _adopt(self, now: float, record: Record | None, revision: int) -> None:
        self.record = record
        self.revision = revision
        self.seen_at = now
        if record is None or record.holder != self.holder:
            self._stepping_down = self._gave_back = False
        if record is None:
            self.lease_until = float("-inf")
            return
        self.term = max(self.term, record.term)
        if record.holder != self.holder:
            self.lease_until = float("-inf")
            return
        sent = self._sent.get(record.beat)
        if sent is not None:
            self.lease_until = max(self.lease_until, sent.at + record.lease)
            self.confirmed = max(self.confirmed, record.beat)
        for beat in [b for b in self._sent if b <= record.beat]:
            del self._sent[beat]
