"""The short runs of the bare ``nox``: each kind of fault once if time allows, as a seed orders."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.jepsen_like import report
from tests.jepsen_like.history import Outcome
from tests.jepsen_like.nodes import Cluster, OneServer, ThreeServers
from tests.jepsen_like.run import run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(200)]


@pytest.mark.parametrize(
    ("topology", "seconds", "least"),
    [
        pytest.param(OneServer, 20.0, 200, id="one-server"),
        # Each fault of a leader costs an election, so less is acknowledged.
        pytest.param(ThreeServers, 20.0, 50, id="three-servers"),
    ],
)
def test_three_nodes_under_real_faults_keep_every_promise(
    tmp_path: Path, topology: type[Cluster], seconds: float, least: int
) -> None:
    """HA_JEPSEN_SEED repeats the order of faults; what the machine does meanwhile is its own."""
    seed = int(os.environ.get("HA_JEPSEN_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"HA_JEPSEN_SEED={seed}, files in {tmp_path}")
    result = run(topology(tmp_path), seed, seconds, longest=2.0)
    (tmp_path / "report.html").write_text(report.page(result, seed), encoding="utf-8")
    print(report.text(result))
    assert result.anomalies == []
    # The run was one: there was load, and faults met it.
    acknowledged = [one for one in result.history.operations if one.outcome is Outcome.OK]
    assert len(acknowledged) >= least
    # A node that starts may wait for an election: how many faults fit is the machine's matter.
    assert len({fault.kind for fault in result.history.faults}) >= 3
