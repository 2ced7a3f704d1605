"""From a seed that fails to the shortest history that fails in the same way.

The plan loses faults, operations, workloads, nodes and rates of chance faults, as long as one
of the promises is still broken that the whole plan breaks. Each try is a run, so the time is
bounded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sim.cut import RATES, Act, Cut
from sim.plan import Plan
from sim.run import Outcome, run_plan
from sim.workloads import ALL

T = TypeVar("T")
_TIME = re.compile(r"\b(\d+\.\d{3})(?: s|–)")


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest plan found, and how it ended. ``tried``: runs that it took."""

    cut: Cut
    outcome: Outcome
    tried: int


def shrink(
    plan: Plan,
    outcome: Outcome,
    seconds: float,
    told: Callable[[str], None] = lambda _: None,
    cut: Cut = Cut(),  # noqa: B008
) -> Shrunk:
    """``outcome``: how ``cut`` of the plan ended; ``seconds``: of real time, about."""
    return _Shrinker(plan, outcome, seconds, told, cut).run()


def signature(problem: str) -> str:
    """What two reports of the same broken promise have in common."""
    first = problem.splitlines()[0]
    what, _, rest = first.partition(": ")
    error = re.match(r"\w+(Error|Exception)\b", rest)
    what = re.sub(r"[\w]+#\d+|tok\d+x|-?\d[\d.e+-]*|\[[^]]*\]", "#", what)
    return f"{what} {error.group() if error else ''}".strip()[:100]


class _Shrinker:
    def __init__(
        self,
        plan: Plan,
        outcome: Outcome,
        seconds: float,
        told: Callable[[str], None],
        cut: Cut,
    ) -> None:
        self._plan = plan
        self._best = outcome
        self._cut = cut
        self._wanted = {signature(p) for p in outcome.problems}
        self._until = time.monotonic() + seconds
        self._told = told
        self._tried = 0
        self._known: set[Cut] = {cut}

    def run(self) -> Shrunk:
        before: Cut | None = None
        self._stop_early()
        self._leap()
        self._shorten()
        while before != self._cut and not self._late:
            before = self._cut
            self._fewer_workloads()
            self._fewer_faults()
            self._fewer_rates()
            self._fewer_nodes()
            self._fewer_acts()
        return Shrunk(self._cut, self._best, self._tried)

    @property
    def _late(self) -> bool:
        return time.monotonic() >= self._until

    def _fails(self, cut: Cut) -> bool:
        """Does it break the same promise? Then it is the best now."""
        if cut in self._known or self._late:
            return False
        self._known.add(cut)
        self._tried += 1
        outcome = run_plan(cut.of(self._plan))
        failed = any(signature(p) in self._wanted for p in outcome.problems)
        if failed:
            self._cut, self._best = cut, outcome
        self._told(
            f"shrinking: {len(self._acts())} operations, {len(self._best.plan.faults)} faults,"
            f" {self._best.plan.nodes} nodes ({self._tried} tries)"
        )
        return failed

    # --- what there is ---------------------------------------------------------------

    def _acts(self) -> tuple[Act, ...]:
        """The operations of the best run, in the order in which they began."""
        return tuple(
            dict.fromkeys((int(c.client[1:]), c.step) for c in self._best.calls if c.client)
        )

    def _faults(self) -> tuple[int, ...]:
        if self._cut.faults is not None:
            return self._cut.faults
        return tuple(range(len(self._plan.faults)))

    # --- passes ----------------------------------------------------------------------

    def _stop_early(self) -> None:
        """What began after the first sign of trouble is not its cause."""
        seen = [float(t) for p in self._best.problems for t in _TIME.findall(p)]
        if seen:
            began = dict.fromkeys(
                (int(c.client[1:]), c.step) for c in self._best.calls if c.begun <= min(seen)
            )
            self._fails(replace(self._cut, acts=tuple(began)))

    def _leap(self) -> None:
        """Often no fault is needed, and one workload."""
        self._fails(replace(self._cut, faults=(), off=RATES))
        for name in self._named()[:2]:
            if self._fails(replace(self._cut, workloads=(name,))):
                return

    def _named(self) -> list[str]:
        """Workloads whose tables the problems name."""
        said = set(re.findall(r"\w+", " ".join(self._best.problems)))
        names = self._cut.workloads or self._plan.workloads
        return [n for n in names if len(names) > 1 and said & {w.table for w in ALL[n].watches}]

    def _shorten(self) -> None:
        """Nothing happens any more after a share of the operations."""
        for share in (8, 4, 2):
            acts = self._acts()
            while len(acts) > 8 and not self._late:
                fewer = acts[: len(acts) - max(len(acts) // share, 1)]
                if not self._fails(replace(self._cut, acts=fewer)):
                    break
                acts = self._acts()

    def _fewer_workloads(self) -> None:
        names = self._cut.workloads or self._plan.workloads
        if len(names) > 1:
            self._least(names, lambda rest: replace(self._cut, workloads=tuple(rest)))

    def _fewer_faults(self) -> None:
        self._least(self._faults(), lambda rest: replace(self._cut, faults=tuple(rest)))

    def _fewer_rates(self) -> None:
        off = self._cut.off or ()
        on = [r for r in RATES if r not in off]
        if on and not self._fails(replace(self._cut, off=RATES)):
            self._least(
                on,
                lambda rest: replace(self._cut, off=tuple(r for r in RATES if r not in rest)),
            )

    def _fewer_nodes(self) -> None:
        for nodes in range(1, self._best.plan.nodes):
            if self._fails(replace(self._cut, nodes=nodes)):
                return

    def _fewer_acts(self) -> None:
        self._least(self._acts(), lambda rest: replace(self._cut, acts=tuple(rest)))

    def _least(self, items: Sequence[T], cut: Callable[[Sequence[T]], Cut]) -> None:
        """Leave out what is not needed: all, then halves, quarters, … one at a time."""
        kept = list(items)
        size = len(kept)
        while size and kept and not self._late:
            at = 0
            while at < len(kept) and not self._late:
                rest = kept[:at] + kept[at + size :]
                if self._fails(cut(rest)):
                    kept = rest
                else:
                    at += size
            size //= 2
