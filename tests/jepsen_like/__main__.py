"""Real nodes and NATS servers under real faults: a long run, with a report page.

Three nodes take the writes of concurrent clients, over HTTP and PostgreSQL's wire, while
processes are killed and stopped, cables cut, clocks moved, disks filled, slowed and robbed of
what was not synced. Then judges compare what clients were told with what the nodes hold.

examples:
  python -m tests.jepsen_like --minutes 10
  python -m tests.jepsen_like --minutes 30 --mode leader --topology three-servers
  python -m tests.jepsen_like --minutes 2 --seed 7 --faults kill_node,isolate
  python -m tests.jepsen_like --list             what can be had on this machine

The exit status is 1 if there is an anomaly. Network namespaces and disks of our own need root;
what this machine does not allow is skipped by name.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.jepsen_like import machine, report
from tests.jepsen_like.nodes import TOPOLOGIES, Options
from tests.jepsen_like.run import run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.jepsen_like",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, help="of load and faults (default: 10)", default=10.0)
    add("--seed", type=int, help="of the faults and the load; printed if not given")
    add("--mode", choices=["leaderless", "leader"], default="leaderless",
        help="any node takes writes (default), or one that is elected")  # fmt: skip
    add("--topology", choices=sorted(TOPOLOGIES), default="three-servers",
        help="where NATS runs: in each node, as a cluster (default), or in one")  # fmt: skip
    add("--durability", choices=["normal", "full"], default="full",
        help="normal: without power_loss, which it does not survive")  # fmt: skip
    add("--snapshots", action="store_true", help="nodes take one each minute")
    add("--faults", metavar="A,B,…", help="only these kinds; see --list")
    add("--network", choices=["auto", "namespaces", "loopback"], default="auto")
    add("--disks", choices=["auto", "fuse", "tmpfs", "plain"], default="auto")
    add("--clients", type=int, default=6, help="at the same time (default: 6)")
    add("--longest", type=float, default=6.0, help="seconds of the longest fault (default: 6)")
    add("--out", type=Path, help="an empty folder for history, logs and report.html")
    add("--list", action="store_true", help="say which faults this machine allows, and end")
    return parser


def main() -> int:
    parser = _parser()
    given = parser.parse_args()
    try:
        here = machine.look(given.network, given.disks)
    except OSError as error:
        parser.error(str(error))
    out: Path = given.out or Path(tempfile.mkdtemp(prefix="ha-jepsen-"))
    options = Options(given.mode, given.durability, given.snapshots)
    cluster = TOPOLOGIES[given.topology](out, here, options)
    kinds = tuple(given.faults.split(",")) if given.faults else cluster.kinds
    if unknown := set(kinds) - set(cluster.kinds):
        parser.error(
            f"no such fault here: {', '.join(sorted(unknown))}; there are "
            f"{', '.join(cluster.kinds)}\n{here.text()}"
        )
    print(here.text(), f"faults: {', '.join(kinds)}", sep="\n", flush=True)
    if given.list:
        return 0
    out.mkdir(parents=True, exist_ok=True)
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    print(
        f"seed {seed}: {given.minutes:g} minutes, {given.mode}, {given.topology}, "
        f"durability {given.durability}, in {out}",
        flush=True,
    )
    result = run(
        cluster,
        seed,
        given.minutes * 60,
        longest=given.longest,
        clients=given.clients,
        kinds=kinds,
    )
    page = out / "report.html"
    page.write_text(
        report.page(result, f"seed {seed}, {given.mode}, {given.topology}"), encoding="utf-8"
    )
    print(report.text(result))
    print(f"report: {page}")
    return 1 if result.anomalies else 0


if __name__ == "__main__":
    sys.exit(main())
