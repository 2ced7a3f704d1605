"""Where in its log a database begins that has no position yet (``--replication-policy``)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Start(StrEnum):
    """As JetStream's deliver policies are named."""

    ALL = "all"
    LAST = "last"
    NEW = "new"
    SEQUENCE = "by_start_sequence"
    TIME = "by_start_time"


@dataclass(frozen=True, slots=True)
class Policy:
    """``sequence`` belongs to SEQUENCE, ``time_ns`` (Unix nanoseconds) to TIME."""

    start: Start = Start.ALL
    sequence: int = 0
    time_ns: int = 0

    def as_deliver_policy(self) -> dict[str, object]:
        """The members of a JetStream consumer's configuration that say the same."""
        out: dict[str, object] = {"deliver_policy": self.start.value}
        if self.start is Start.SEQUENCE:
            out["opt_start_seq"] = max(self.sequence, 1)
        elif self.start is Start.TIME:
            time = datetime.fromtimestamp(self.time_ns / 1e9, UTC)
            out["opt_start_time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
        return out


ALL = Policy()


def parse_policy(text: str) -> Policy:
    """``all``, ``last``, ``new``, ``by_start_sequence=N``, ``by_start_time=YYYY-MM-DD HH:MM:SS``
    (UTC). Raises ValueError."""
    name, _, value = text.partition("=")
    start = Start(name or "all")
    if start is Start.SEQUENCE:
        return Policy(start, sequence=int(value))
    if start is Start.TIME:
        time = datetime.strptime(value, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        return Policy(start, time_ns=int(time.timestamp()) * 10**9)
    return Policy(start)
