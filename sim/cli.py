"""The command line of the simulator."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sim.cut import Cut, parse
from sim.hunt import WITHIN, hunt_all, list_plants
from sim.page import page
from sim.plan import Plan, draw
from sim.plants import find, planted
from sim.run import Outcome, run_plan
from sim.shrink import shrink
from sim.timeline import history_of, text_of


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
    cpu: float
    lost_updates: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if a promise was broken."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.fresh and options.minutes and not options.seeds:
        parser.error("--fresh comes after --seeds, and --minutes alone goes on without an end")
    if options.plants:
        list_plants()
        return 0
    if options.seed is not None:
        with planted(find(options.plant)) if options.plant else nullcontext():
            return _one(options)
    if options.plant is not None:
        start, within = options.start or 0, options.seeds or WITHIN
        names = options.plant.split(",")
        return 1 if hunt_all(names, start, within, options.steps, options.jobs) else 0
    return _many(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim",
        description="Runs clusters of ha on simulated clocks, networks and disks, one a seed."
        " See docs/simulator.md.",
    )
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--seeds", type=int, metavar="N", help="run N seeds (default: 20)")
    parser.add_argument(
        "--start",
        type=_start,
        metavar="N",
        help="the first seed; 'fresh' (the default): by chance, and printed",
    )
    parser.add_argument(
        "--fresh",
        type=int,
        default=0,
        metavar="N",
        help="and then N seeds more, from one on that is drawn by chance, and printed",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--steps", type=int, metavar="N", help="operations of each client")
    parser.add_argument("--minutes", type=float, metavar="T", help="start no seed after T minutes")
    level = parser.add_mutually_exclusive_group()
    level.add_argument(
        "--calm", dest="level", action="store_const", const="calm", help="without faults"
    )
    level.add_argument(
        "--hell", dest="level", action="store_const", const="hell", help="with many faults"
    )
    parser.set_defaults(level="default")
    parser.add_argument(
        "--cut",
        nargs="+",
        metavar="WORD",
        type=str,
        help="with --seed: leave out parts of its plan, as a shrunk failure prints them",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="with --seed: print the time line of each node, and write it as an HTML page",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="with --trace: the page (default: sim-SEED.html)"
    )
    parser.add_argument(
        "--shrink",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to spend on the shortest history of a failure (default: 60; 0: none)",
    )
    parser.add_argument("--plants", action="store_true", help="list the planted bugs")
    parser.add_argument(
        "--plant",
        metavar="NAME",
        help="look for a planted bug (several with commas, or 'all'); with --seed: put it in",
    )
    return parser


def _start(text: str) -> int:
    return _fresh() if text == "fresh" else int(text)


def _fresh() -> int:
    return random.SystemRandom().randrange(10**9)


# --- one seed --------------------------------------------------------------------------


def _one(options: argparse.Namespace) -> int:
    plan = draw(options.seed, options.level, options.steps)
    try:
        cut = parse(options.cut or ())
    except ValueError as error:
        print(f"--cut: {error}", file=sys.stderr)
        return 2
    outcome = run_plan(cut.of(plan), keep_trace=options.trace)
    if options.trace:
        for line in text_of(outcome):
            print(line)
        print()
        path = Path(options.html or f"sim-{options.seed}.html")
        path.write_text(page(outcome, _replay(options, options.seed, cut)), "utf-8")
    print(outcome.line())
    if options.trace:
        print(f"the same as a page: {path}")
    if not outcome.ok:
        _explain(options, plan, cut, outcome)
    return 0 if outcome.ok else 1


def _explain(options: argparse.Namespace, plan: Plan, cut: Cut, outcome: Outcome) -> None:
    """What was broken, how it came about in its shortest form, and how to see that again."""
    _list(outcome.problems)
    if options.shrink > 0 and not options.trace:
        shrunk = shrink(plan, outcome, options.shrink, _progress, cut)
        _progress("")
        cut = shrunk.cut
        # Once more, to have its story.
        outcome = run_plan(cut.of(plan), keep_trace=True)
        print(
            f"the shortest history found ({shrunk.tried} tries): {len(outcome.plan.faults)} faults,"
            f" {outcome.plan.nodes} nodes, {len(outcome.calls)} operations"
        )
        for line in history_of(outcome):
            print(f"  {line[:230]}")
        _list(outcome.problems, 2)
    print(f"replay: {_replay(options, plan.seed, cut)} --trace", flush=True)


def _list(problems: Sequence[str], limit: int = 4) -> None:
    problems = list(dict.fromkeys(problems))
    for problem in problems[:limit]:
        print(f"  BROKEN: {problem[:2000]}")
    if len(problems) > limit:
        print(f"  … and {len(problems) - limit} more")


def _replay(options: argparse.Namespace, seed: int, cut: Cut) -> str:
    level = "" if options.level == "default" else f" --{options.level}"
    steps = "" if options.steps is None else f" --steps {options.steps}"
    plant = f" --plant {options.plant}" if options.plant else ""
    words = f" --cut {cut}" if str(cut) else ""
    return f"python -m sim --seed {seed}{level}{steps}{plant}{words}"


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
        outcome.cpu,
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
    start = options.start if options.start is not None else _fresh()
    count = options.seeds or (10**9 if options.minutes else 20)
    until = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    print(f"seeds from {start} (--start {start}), level {options.level}", flush=True)
    seeds = [range(start, start + count)]
    if options.fresh:
        other = _fresh()
        seeds.append(range(other, other + options.fresh))
        again = f"--start {other} --seeds {options.fresh}"
        print(f"then {options.fresh} fresh seeds ({again})", flush=True)
        count += options.fresh
    plans = (draw(seed, options.level, options.steps) for seed in chain(*seeds))
    began = time.monotonic()
    reports: list[Report] = []
    for report in run_many(plans, options.jobs, until):
        reports.append(report)
        _progress("")
        print(report.line, flush=True)
        if not report.ok:
            _list(report.problems)
            print(f"  replay: {_replay(options, report.seed, Cut())} --trace", flush=True)
        _progress(_bar(len(reports), count, began, until))
    _progress("")
    status = _sum_up(reports, time.monotonic() - began)
    failed = [r.seed for r in reports if not r.ok]
    if failed and options.shrink > 0:
        print(f"\nseed {failed[0]} again, to find the shortest history that shows it", flush=True)
        plan = draw(failed[0], options.level, options.steps)
        _explain(options, plan, Cut(), run_plan(plan))
    return status


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
    count = max(len(reports), 1)
    virtual = sum(r.virtual for r in reports)
    acknowledged = sum(r.acknowledged for r in reports)
    faults = sum(r.faults for r in reports)
    hits = sum(r.hits for r in reports)
    lost = sum(r.lost_updates for r in reports)
    busy = max(sum(r.cpu for r in reports), 1e-9)  # of a core, whatever else the machine does
    print(
        f"{len(reports)} seeds in {took:.0f} s: {acknowledged} acknowledged operations,"
        f" {faults} faults, {hits} of them or of their effects hit something in flight;"
        f" {lost} updates lost to a later writer"
    )
    print(
        f"a seed: {acknowledged / count:.0f} operations (least"
        f" {min((r.acknowledged for r in reports), default=0)}), {hits / count:.0f} hits,"
        f" {virtual / count:.0f} virtual seconds; a core: {len(reports) / busy * 60:.0f} seeds a"
        f" minute, {virtual / busy:.1f} virtual seconds a second,"
        f" {acknowledged / busy:.0f} operations a second"
    )
    if failed:
        print(f"FAILED: {len(failed)} seeds: {' '.join(map(str, failed))}")
        return 1
    print("every promise held")
    return 0
