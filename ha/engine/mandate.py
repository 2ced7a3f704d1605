"""What allows a node's databases to write where one of the nodes leads.

The lease says who may try; the log decides. Once a node has the lease, each of its databases
publishes a message that opens the term, and takes writes when that has come back through the
log, as the highest term there. From then on the fold of every node ignores what others write
(:class:`ha.core.fold.Term`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ha.core.errors import Code, HaError
from ha.core.fold import Term


class Mandate(Protocol):
    """Who leads, as the commit path of a database asks."""

    @property
    def held(self) -> int | None:
        """The term in which this node may write now; None while it does not lead."""
        ...

    def refusal(self) -> HaError:
        """Why this node takes no write, and who does."""
        ...

    def learned(self, term: int, *, lost: bool) -> None:
        """A log holds a term that is above the one that this node may have, or the same one of
        another process. ``lost``: another has come after this node had opened its own."""
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call it whenever :attr:`held` may be another."""
        ...

    def forget(self, callback: Callable[[], None]) -> None:
        """Call it no more."""
        ...


@dataclass(slots=True)
class Opening:
    """The message that opens a term, under way. ``again_at``: trio's time when it is sent again,
    with the same id."""

    term: int
    message_id: str
    payload: bytes
    again_at: float


class Rule:
    """Which messages of this process count, as far as the database's fold has come.

    ``mandate``: None where every node writes."""

    AGAIN = 1.0

    def __init__(self, mandate: Mandate | None, node: str, process_id: int) -> None:
        self.mandate = mandate
        self.opening: Opening | None = None
        self._node = node
        self._process_id = process_id
        self._opened = 0

    def is_ours(self, term: Term) -> bool:
        return (term.node, term.process_id) == (self._node, self._process_id)

    def to_open(self, term: Term, now: float) -> int | None:
        """The term to open now, if there is one; ``term``: the highest in the log."""
        mandate = self.mandate
        if mandate is None or mandate.held is None:
            return None
        ours = self.is_ours(term)
        if ours:
            self._opened = max(self._opened, term.number)
            if term.number == mandate.held:
                return None
        if term.number >= mandate.held:
            mandate.learned(term.number, lost=self._opened > 0 and not ours)
            return None
        if (
            self.opening is not None
            and self.opening.term == mandate.held
            and now < self.opening.again_at
        ):
            return None
        return mandate.held

    def forbids(self, term: Term) -> HaError | None:
        """Why nothing may be written now, for good as far as this process knows; None if it may,
        or may soon."""
        if self.mandate is None:
            return None if term.number == 0 else _led(term)
        return self.mandate.refusal() if self.mandate.held is None else None

    def is_open(self, term: Term) -> bool:
        """May this process write?"""
        if self.mandate is None:
            return term.number == 0
        return self.mandate.held == term.number and self.is_ours(term)

    def fenced(self, term: Term) -> HaError:
        """What is told to the client of a message that can never count."""
        if self.mandate is None:
            return _led(term)
        error = self.mandate.refusal()
        if error.code is Code.NOT_LEADER or self.is_ours(term):
            return error
        # The log knows more than the bucket has told so far.
        return HaError(
            Code.NOT_LEADER,
            f"this node does not lead any more: {term.node} does (term {term.number})",
            hint="nothing was written; try again",
        )


def _led(term: Term) -> HaError:
    return HaError(
        Code.NOT_LEADER,
        f"the database has a leader (term {term.number}, opened by {term.node!r}), and this node"
        " was started without --leader-addr or --leader-static: it cannot write",
        hint="nothing was written; give this node the flags that the others have",
    )
