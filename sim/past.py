"""What the log was before the broker lost the end of it.

A power failure takes what the broker had not synced (``--durability normal``). What clients and
files knew until then is judged by the log as it was; and of what was acknowledged exactly that
may be gone which stood after the last sync.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sim.broker import Server
from sim.checkers import FoldHistory, check_reads, fold_log
from sim.checkers.folds import State
from sim.history import GONE, OK, Call, Probe
from sim.oracle import skips_in
from sim.workloads import Watch


@dataclass(frozen=True, slots=True)
class Era:
    """A time in which the log lost nothing: what it came to, and what was asked and answered."""

    fold: FoldHistory
    calls: list[Call]


class Past:
    """``gone``: acknowledged writes that the log has lost, once they were looked for."""

    def __init__(
        self,
        server: Server,
        watches: Sequence[Watch],
        wanted: set[State],
        identify: str,
        bases: Mapping[str, bytes],
    ) -> None:
        self.gone = 0
        self._kept = [loss.kept for loss in server.losses]
        self._times = [loss.at for loss in server.losses]
        self._folds = [
            fold_log(log, watches, wanted, identify, bases, lost_skips(server))
            for log in _former_logs(server)
        ]

    def unexplained_probes(self, probes: Iterable[Probe]) -> list[Probe]:
        """Files that hold no state of a former log."""
        return [
            p for p in probes if not any(f.digests.get(p.state) == p.digest for f in self._folds)
        ]

    def unexplained_calls(self, calls: Iterable[Call]) -> list[Call]:
        """Those of which a former log does not tell that they were answered rightly, and that the
        answer was lost with its end."""
        if not self._folds:
            return list(calls)
        out: list[Call] = []
        for call in calls:
            if self._is_explained(call):
                continue
            if call.era < len(self._folds):
                # What the session wrote or saw before may be gone, so it may go back.
                # Its file may have been replaced while it waited.
                low = min(call.low, call.applied, *self._kept)
                call = replace(call, low=low, session=-call.number - 1)
            out.append(call)
        return out

    def eras(self, fold: FoldHistory, calls: Sequence[Call]) -> list[Era]:
        """The run cut at each loss; ``fold``: of the log that there is in the end."""
        ends = [*self._times, float("inf")]
        folds = [*self._folds, fold]
        begin = 0.0
        out: list[Era] = []
        for end, of_era in zip(ends, folds, strict=True):
            out.append(Era(of_era, [c for c in calls if begin <= c.begun and c.ended < end]))
            begin = end
        return out

    def first_era(self, fold: FoldHistory, calls: Sequence[Call], until: float) -> Era:
        """Until the broker first lost something, or ``until``. What was asked before, and answered
        after, is without an answer there."""
        end = min([*self._times, until])
        return Era(
            self._folds[0] if self._folds else fold,
            [c if c.ended < end else replace(c, outcome=GONE) for c in calls if c.begun < end],
        )

    def _is_explained(self, call: Call) -> bool:
        if call.watch:
            return any(
                not check_reads(
                    f,
                    [replace(call, low=min(call.low, call.applied), high=max(call.high, f.last))],
                )
                for f in self._folds
            )
        if not self._was_lost(call):
            return False
        self.gone += call.outcome == OK
        return True

    def _was_lost(self, call: Call) -> bool:
        return any(
            sequence > kept
            for kept, fold in zip(self._kept, self._folds, strict=True)
            for sequence in _places(fold, call)
        )


def lost_skips(server: Server) -> frozenset[int]:
    """What the log let nodes pass over before it lost that word; who had passed has passed."""
    return skips_in((e.sequence, e.payload) for loss in server.losses for _, e in loss.lost)


def _places(fold: FoldHistory, call: Call) -> list[int]:
    """Where the write that the call speaks of stood in a former log."""
    named = call.sequence or call.error_sequence
    if not named:
        return [m.sequence for m in fold.by_token.get(call.token, ())] if call.token else []
    meaning = fold.meanings.get(named)
    own = meaning is not None and meaning.node == call.process.partition("#")[0]
    return [named] if own else []


def _former_logs(server: Server) -> list[list[tuple[int, bytes]]]:
    """The whole log just before each loss, the oldest first."""
    out: list[list[tuple[int, bytes]]] = []
    log = [(e.sequence, e.payload) for _, e in server.stored]
    for loss in reversed(server.losses):
        kept = [entry for entry in log if entry[0] <= loss.kept]
        log = kept + [(e.sequence, e.payload) for _, e in loss.lost]
        out.append(log)
    out.reverse()
    return out
