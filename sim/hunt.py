"""The hunt for planted bugs: which seed finds each, and does it pass without the plant?"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from sim.plan import draw
from sim.plants import PLANTS, find, planted, read_sources
from sim.run import run_plan

WITHIN = 200
"""Seeds of the default mix in which each planted bug must be found."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """``seed``: where the plant was found, None if it survived; ``tried``: how many seeds;
    ``clean``: the same seed passes without it; ``real``: seconds."""

    name: str
    seed: int | None
    tried: int
    clean: bool
    problem: str
    real: float

    @property
    def found(self) -> bool:
        return self.seed is not None and self.clean

    def __str__(self) -> str:
        if self.seed is None:
            return f"{self.name:34} SURVIVED {self.tried} seeds in {self.real:.0f} s"
        clean = "" if self.clean else " BUT THE SEED FAILS WITHOUT IT TOO"
        first = self.problem.splitlines()[0][:160]
        return (
            f"{self.name:34} found by seed {self.seed} ({self.tried} tried,"
            f" {self.real:.0f} s){clean}: {first}"
        )


def list_plants() -> None:
    for plant in PLANTS:
        print(f"{plant.name:34} {plant.what}")


def hunt(name: str, start: int = 0, within: int = WITHIN, steps: int | None = None) -> Hunt:
    """Look for a planted bug, seed after seed. Raises KeyError, Outdated."""
    began = time.monotonic()
    plant = find(name)
    for tried, seed in enumerate(range(start, start + within), 1):
        plan = draw(seed, "default", steps)
        with planted(plant):
            outcome = run_plan(plan)
        if not outcome.ok:
            clean = run_plan(plan).ok
            problem = outcome.problems[0][:300]
            return Hunt(name, seed, tried, clean, problem, time.monotonic() - began)
    return Hunt(name, None, within, True, "", time.monotonic() - began)


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
