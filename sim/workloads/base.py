"""The shape of a workload, and values that try a replication's honesty."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sim.client import Client

Sql = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Watch:
    """A question whose answer the checkers know for every state of the log.

    ``sql`` answers rows whose first column is the key, in the order of the keys; ``{where}``
    in it is where a client may ask for some keys alone. ``table``: what it reads.
    """

    name: str
    table: str
    key: str
    sql: str

    def whole(self) -> str:
        return self.sql.format(where="")

    def some(self, keys: Sequence[object]) -> str:
        return self.sql.format(where=f"WHERE {self.key} IN ({', '.join('?' * len(keys))})")


class Workload:
    """``schema``: statements that make its tables. ``invariant``: a Watch's name and a sentence,
    for :meth:`holds`, which must be true of every state while one node alone writes."""

    name: ClassVar[str]
    schema: ClassVar[tuple[str, ...]] = ()
    watches: ClassVar[tuple[Watch, ...]] = ()
    weight: ClassVar[float] = 1.0

    async def step(self, client: Client) -> None:
        """One operation of a client, or a few that belong together."""
        raise NotImplementedError

    @staticmethod
    def holds(rows: tuple[tuple[object, ...], ...]) -> str | None:
        """What is wrong with an answer to the first watch, None if nothing is."""
        return None


def some_value(chance: random.Random) -> Any:
    """A value of any storage class, often one that is easily lost on the way."""
    return chance.choice(_VALUES)(chance)


_VALUES: tuple[Any, ...] = (
    lambda c: c.randrange(100),
    lambda c: c.randrange(100),
    lambda c: None,
    lambda c: 2**53 + 1 + c.randrange(10),
    lambda c: -(2**63),
    lambda c: c.random(),
    lambda c: c.choice((1e300, -0.0, 1.0, float("inf"), float("-inf"), 0.1 + 0.2)),
    lambda c: "plain",
    lambda c: 'it\'s "quoted" \\ \u2603 \U0001f680 \x00 end',
    lambda c: "",
    lambda c: c.randbytes(c.randrange(8)),
    lambda c: b"YWJj",
    lambda c: "12",
)
