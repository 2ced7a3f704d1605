"""What clients asked for and were told: the material of the checkers."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.content import Content

OK = "ok"
GONE = "gone"  # the node died, or the client went away, before the answer
HUNG = "hung"


@dataclass(slots=True)
class Call:
    """One call of a client.

    ``token``: the mark that its write leaves in the message (empty: none); ``expected``: it
    must leave a message if it succeeds. ``low``: the state that it may see at least (the
    node's applied sequence when it began, what the session wrote before); ``high``: the end of
    the log when it ended. ``outcome``: ``ok``, an error's code, or one of the words above.
    ``watch``, ``keys``, ``rows``: of a read, what was read (see :mod:`sim.workloads`). ``step``:
    which of its client's operations it belongs to. ``linear``: a read that asked the leader for
    the latest state. ``tentative``: its node answers before the log
    has what was written. ``undone``: the sequence that it was to take back.
    ``applied``: the position of its node when it began; ``era``: how often
    the broker had lost messages when its session began; ``ready``: whether the node said that
    it may get traffic.
    """

    number: int
    client: str
    process: str
    session: int
    workload: str
    what: str
    token: str = ""
    expected: bool = False
    begun: float = 0.0
    ended: float = 0.0
    low: int = 0
    high: int = 0
    outcome: str = ""
    message: str = ""
    sequence: int = 0
    error_sequence: int = 0
    watch: str = ""
    keys: tuple[object, ...] | None = None
    rows: tuple[tuple[object, ...], ...] = ()
    step: int = 0
    tentative: bool = False
    linear: bool = False
    undone: int = 0
    applied: int = 0
    era: int = 0
    ready: bool = True

    def __str__(self) -> str:
        parts = [f"{self.begun:9.3f}–{self.ended:.3f}", self.client, self.process, self.what]
        if self.token:
            parts.append(self.token)
        parts.append(f"→ {self.outcome}")
        if self.sequence:
            parts.append(f"at {self.sequence}")
        if self.message:
            parts.append(f"({self.message})")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Probe:
    """A node's file, looked at from outside: the sequence that it says, and a digest.

    ``waiting``: messages in its outbox, whose effects it shows before the log has them;
    ``letters``: its dead letters, as (sequence, state, message).
    """

    time: float
    process: str
    sequence: int
    digest: str
    content: Content = field(default_factory=dict, compare=False, repr=False)
    waiting: tuple[bytes, ...] = field(default=(), repr=False)
    letters: tuple[tuple[int, str, bytes], ...] = field(default=(), repr=False)

    @property
    def state(self) -> tuple[int, tuple[bytes, ...]]:
        """What decides about its content."""
        return self.sequence, self.waiting


@dataclass(slots=True)
class History:
    """``bases``: files that the operator made the base of the log, by the digest in its message."""

    calls: list[Call] = field(default_factory=list)
    bases: dict[str, bytes] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    """When a node's disk lost something that it had been given, by node."""
    rebases: list[float] = field(default_factory=list)
    """When the operator began to make a file the base."""
    tokens: int = 0

    def token(self) -> str:
        """A mark that no other write has."""
        self.tokens += 1
        return f"tok{self.tokens}x"

    @property
    def acknowledged(self) -> int:
        return sum(1 for c in self.calls if c.outcome == OK)
