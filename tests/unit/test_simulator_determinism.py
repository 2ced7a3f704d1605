"""A seed gives the same run, step by step, in another process with other hashes of strings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = 50


def start(hash_seed: str) -> subprocess.Popen[str]:
    """Short plans of many seeds; each line ends in the time that it took, and the state."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-m", "sim", "--seeds", str(SEEDS), "--start", "1"]
    return subprocess.Popen(
        [*command, "--steps", "8", "--shrink", "0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(180)
def test_the_hash_over_all_that_happens_is_the_same_in_two_processes() -> None:
    runs = [start("1"), start("2")]
    seen = []
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output
        seen.append(re.findall(r"^(seed=.*) real=", output, re.MULTILINE))
    assert len(seen[0]) == SEEDS
    assert len({re.findall(r"hash=(\w+)", line)[0] for line in seen[0]}) == SEEDS
    assert seen[0] == seen[1]
