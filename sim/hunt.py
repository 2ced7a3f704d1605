"""The hunt for planted bugs: which seed finds each, and does it pass without the plant?"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

from sim.plan import draw
from sim.plants import PLANTS, find, planted, read_sources
from sim.run import run_plan

WITHIN = 200
"""Seeds of the default mix in which each planted bug must be found."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """``seed``: where the plant was found, None if it survived; ``tried``: how many seeds;
    ``dirty``: seeds that failed without it too; ``real``: seconds."""

    name: str
    seed: int | None
    tried: int
    dirty: tuple[int, ...]
    problem: str
    real: float

    @property
    def found(self) -> bool:
        return self.seed is not None

    def __str__(self) -> str:
        dirty = f" (seeds {self.dirty} fail without it too)" if self.dirty else ""
        if self.seed is None:
            return f"{self.name:34} SURVIVED {self.tried} seeds in {self.real:.0f} s{dirty}"
        first = self.problem.splitlines()[0][:160]
        return (
            f"{self.name:34} found by seed {self.seed} ({self.tried} tried,"
            f" {self.real:.0f} s){dirty}: {first}"
        )


@cache
def _is_clean(seed: int, steps: int | None) -> bool:
    return run_plan(draw(seed, "default", steps)).ok


def list_plants() -> None:
    for plant in PLANTS:
        print(f"{plant.name:34} {plant.what}")


def hunt(
    name: str,
    start: int = 0,
    within: int = WITHIN,
    steps: int | None = None,
    first: Sequence[int] = (),
) -> Hunt:
    """Look for a planted bug, seed after seed, those in ``first`` before all others. A seed that
    fails without the plant says nothing of it. Raises KeyError, Outdated."""
    began = time.monotonic()
    plant = find(name)
    dirty: list[int] = []
    others = (seed for seed in range(start, start + within) if seed not in first)
    for tried, seed in enumerate((*first, *others), 1):
        plan = draw(seed, "default", steps)
        with planted(plant):
            outcome = run_plan(plan)
        if outcome.ok:
            continue
        if _is_clean(seed, steps):
            problem = outcome.problems[0][:300]
            return Hunt(name, seed, tried, tuple(dirty), problem, time.monotonic() - began)
        dirty.append(seed)
    return Hunt(name, None, within, tuple(dirty), "", time.monotonic() - began)


def hunt_all(
    names: Sequence[str], start: int, within: int, steps: int | None = None, jobs: int = 1
) -> list[str]:
    """Look for these (all: ``["all"]``), print what comes of it, and return the names of those
    that were not found. Raises KeyError, Outdated."""
    if list(names) == ["all"]:
        names = [plant.name for plant in PLANTS]
    read_sources()
    survived: list[str] = []
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(max(jobs, 1), mp_context=context) as pool:
        hunts = [pool.submit(hunt, name, start, within, steps) for name in names]
        for future in hunts:
            found = future.result()
            if not found.found:
                survived.append(found.name)
            print(found, flush=True)
    if survived:
        print(f"SURVIVED: {' '.join(survived)}")
    return survived
