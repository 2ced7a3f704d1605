"""The command line of the simulator."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass

from sim.hunt import WITHIN, hunt_all, list_plants
from sim.plan import Plan, draw
from sim.run import run_plan


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker sends back of one seed."""

    seed: int
    line: str
    ok: bool
    problems: tuple[str, ...]
    acknowledged: int
    faults: int
    hits: int
    virtual: float
    real: float
    lost_updates: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if a promise was broken."""
    options = _parser().parse_args(arguments)
    if options.plants:
        list_plants()
        return 0
    if options.plant is not None:
        start, within = options.start or 0, options.seeds or WITHIN
        names = options.plant.split(",")
        return 1 if hunt_all(names, start, within, options.steps, options.jobs) else 0
    if options.seed is not None:
        return _one(options)
    return _many(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim",
        description="Runs clusters of ha on simulated clocks, networks and disks, one a seed.",
    )
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--seeds", type=int, metavar="N", help="run N seeds (default: 20)")
    parser.add_argument("--start", type=int, metavar="N", help="the first seed (default: chance)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--steps", type=int, metavar="N", help="operations of each client")
    parser.add_argument("--minutes", type=float, metavar="T", help="start no seed after T minutes")
    parser.add_argument("--plants", action="store_true", help="list the planted bugs")
    parser.add_argument(
        "--plant", metavar="NAME", help="look for a planted bug (several with commas, or 'all')"
    )
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--calm", dest="level", action="store_const", const="calm")
    level.add_argument("--hell", dest="level", action="store_const", const="hell")
    parser.set_defaults(level="default")
    parser.add_argument("--trace", action="store_true", help="print the time line of the seed")
    return parser


# --- one seed --------------------------------------------------------------------------


def _one(options: argparse.Namespace) -> int:
    plan = draw(options.seed, options.level, options.steps)
    outcome = run_plan(plan, keep_trace=options.trace)
    if options.trace:
        for event in outcome.trace.events:
            print(f"{event.time:10.4f} {event.lane:7} {event.kind} {event.text}")
    print(outcome.line())
    _explain(outcome.problems)
    return 0 if outcome.ok else 1


def _explain(problems: Sequence[str], limit: int = 4) -> None:
    for problem in list(dict.fromkeys(problems))[:limit]:
        print(f"  {problem}")
    if len(problems) > limit:
        print(f"  … and {len(problems) - limit} more")


# --- many seeds ------------------------------------------------------------------------


def _run(plan: Plan) -> Report:
    outcome = run_plan(plan)
    return Report(
        plan.seed,
        outcome.line(),
        outcome.ok,
        tuple(p[:2000] for p in outcome.problems),
        outcome.acknowledged,
        outcome.faults,
        outcome.hits,
        outcome.virtual,
        outcome.real,
        outcome.lost_updates,
    )


def run_many(plans: Iterator[Plan], jobs: int, until: float) -> Iterator[Report]:
    """Reports as they come, ``jobs`` processes at a time; nothing is begun after ``until``."""
    if jobs <= 1:
        for plan in plans:
            if time.monotonic() >= until:
                return
            yield _run(plan)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running: set[Future[Report]] = set()
        while True:
            while len(running) < jobs and time.monotonic() < until:
                following = next(plans, None)
                if following is None:
                    break
                running.add(pool.submit(_run, following))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _many(options: argparse.Namespace) -> int:
    start = options.start
    if start is None:
        start = random.SystemRandom().randrange(10**9)
    count = options.seeds or (10**9 if options.minutes else 20)
    until = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    print(f"seeds from {start}, level {options.level}", flush=True)
    plans = (draw(seed, options.level, options.steps) for seed in range(start, start + count))
    began = time.monotonic()
    reports: list[Report] = []
    for report in run_many(plans, options.jobs, until):
        reports.append(report)
        _progress("")
        print(report.line, flush=True)
        if not report.ok:
            _explain(report.problems)
            print(f"  replay: {_replay(report.seed, options)}", flush=True)
        _progress(_bar(len(reports), count, began, until))
    _progress("")
    return _sum_up(reports, time.monotonic() - began)


def _replay(seed: int, options: argparse.Namespace) -> str:
    level = "" if options.level == "default" else f" --{options.level}"
    steps = "" if options.steps is None else f" --steps {options.steps}"
    return f"python -m sim --seed {seed}{level}{steps} --trace"


def _bar(done: int, count: int, began: float, until: float) -> str:
    now = time.monotonic()
    share = done / count if until == float("inf") else (now - began) / max(until - began, 1e-9)
    filled = int(min(share, 1.0) * 30)
    return f"[{'#' * filled}{'.' * (30 - filled)}] {done} seeds, {now - began:.0f} s"


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _sum_up(reports: list[Report], took: float) -> int:
    failed = sorted(r.seed for r in reports if not r.ok)
    virtual = sum(r.virtual for r in reports)
    acknowledged = sum(r.acknowledged for r in reports)
    faults = sum(r.faults for r in reports)
    hits = sum(r.hits for r in reports)
    print(
        f"{len(reports)} seeds in {took:.0f} s"
        f" ({len(reports) / max(took, 1e-9) * 60:.0f} a minute),"
        f" {virtual:.0f} virtual seconds, {acknowledged} acknowledged operations,"
        f" {faults} faults, {hits} of them with something in flight"
    )
    if failed:
        print(f"FAILED: {len(failed)} seeds: {' '.join(map(str, failed))}")
        return 1
    print("every promise held")
    return 0
