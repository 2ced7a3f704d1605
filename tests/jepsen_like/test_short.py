"""The short runs of the bare ``nox``: faults that the test names, each once, as a seed orders."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.jepsen_like import machine, report
from tests.jepsen_like.history import Outcome
from tests.jepsen_like.nodes import Cluster, OneServer, Options, ThreeServers
from tests.jepsen_like.run import run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

ONE = (
    "kill_node", "stop_node", "lose_answers", "mute", "disk_full", "slow_disk", "clock_skew",
    "power_loss",
)  # fmt: skip
THREE = ("kill_node", "isolate", "stop_node", "deaf")


@pytest.mark.parametrize(
    ("topology", "mode", "wanted"),
    [
        pytest.param(OneServer, "leaderless", ONE, id="one-server"),
        pytest.param(ThreeServers, "leader", THREE, id="three-servers-leader"),
    ],
)
def test_three_nodes_under_real_faults_keep_every_promise(
    tmp_path: Path, topology: type[Cluster], mode: str, wanted: tuple[str, ...]
) -> None:
    """HA_JEPSEN_SEED repeats the order of faults; what the machine does meanwhile is its own."""
    seed = int(os.environ.get("HA_JEPSEN_SEED") or random.SystemRandom().randrange(1_000_000))
    here = machine.look()
    cluster = topology(tmp_path, here, Options(mode))
    kinds = [kind for kind in wanted if kind in cluster.kinds]
    print(f"HA_JEPSEN_SEED={seed}, files in {tmp_path}", here.text(), sep="\n")
    result = run(cluster, seed, None, longest=1.5, kinds=kinds)
    page = report.page(result, f"seed {seed}, {mode}, {topology.__name__}")
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    print(report.text(result))
    assert result.anomalies == []
    # Not by chance: the run ends when each fault was there, and the node took a write after it.
    assert sorted(fault.kind for fault in result.history.faults) == sorted(kinds)
    assert all(fault.recovered is not None for fault in result.history.faults)
    assert any(one.outcome is Outcome.OK for one in result.history.operations)
