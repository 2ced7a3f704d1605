"""``python -m tests.jepsen_like --minutes 10 --seed 7``: a long run, with a report page."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.jepsen_like import report
from tests.jepsen_like.nodes import Cluster, OneServer, ThreeServers
from tests.jepsen_like.run import run

TOPOLOGIES: dict[str, type[Cluster]] = {"one-server": OneServer, "three-servers": ThreeServers}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.jepsen_like", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="one-server")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--longest", type=float, default=6.0, help="of a fault, in seconds")
    parser.add_argument("--out", type=Path, help="an empty folder; a temporary one without it")
    given = parser.parse_args()
    out: Path = given.out or Path(tempfile.mkdtemp(prefix="ha-jepsen-"))
    out.mkdir(parents=True, exist_ok=True)
    print(f"seed {given.seed}, {given.minutes} minutes, in {out}", flush=True)
    result = run(
        TOPOLOGIES[given.topology](out),
        given.seed,
        given.minutes * 60,
        longest=given.longest,
        clients=given.clients,
    )
    page = out / "report.html"
    page.write_text(report.page(result, given.seed), encoding="utf-8")
    print(report.text(result))
    print(f"report: {page}")
    return 1 if result.anomalies else 0


if __name__ == "__main__":
    sys.exit(main())
