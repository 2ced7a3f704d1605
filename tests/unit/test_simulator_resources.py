"""A process can run any number of seeds: a run leaves nothing open behind it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import apsw

from sim.plan import draw
from sim.run import run_plan

SEEDS = (5, 20, 22)
"""Crashes, wipes and errors of the disk are among them."""


def opened() -> list[str]:
    """Files of simulated disks that this process has open, deleted ones too."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(descriptor.readlink()))
    return [path for path in found if "/sim-" in path]


def test_no_file_of_a_simulated_disk_stays_open() -> None:
    connections = len(apsw.connections())
    for seed in SEEDS:
        plan = draw(seed, steps=30)
        for variant in (plan, replace(plan, lease=0.0, asynchronous=tuple(plan.names))):
            outcome = run_plan(variant)
            assert outcome.ok, outcome.problems
            assert outcome.faults
            assert opened() == []
    assert len(apsw.connections()) <= connections
