"""How long no write is taken when the leader dies: ``python -m bench.failover --count 50``.

Three nodes in leader mode, each with a NATS server of its own, three copies of the stream. The
leader is killed together with its server. Two cases, measured apart:

``survives``  the Raft leaders of the stream and of the election's bucket are on other servers
``dies``      they die with it: NATS elects first (it takes 4 to 9 s by itself)

From the kill on, a client writes to each of the two others, one write after the other; the time is
that of the first one that is acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx

from tests.jepsen_like.nodes import nats_pid
from tests.support.leader_cluster import (
    JetStreamAdmin,
    LeaderNode,
    three_servers,
    until,
    wait_leader,
)

CASES = ("survives", "dies")
STREAM = "ha_replication"
STREAMS = (STREAM, f"KV_{STREAM}-leader")
GIVE_UP = 60.0


def _kill(node: LeaderNode) -> float:
    """The node and its server, at one moment as far as that goes; when."""
    server = nats_pid(node)
    assert server is not None
    node.process.send_signal(signal.SIGSTOP)
    os.kill(server, signal.SIGKILL)
    now = time.monotonic()
    node.kill()
    return now


class _Writer(threading.Thread):
    """Writes to one node until ``stop``; ``first``: when the first write begun after ``since``
    was acknowledged."""

    def __init__(self, node: LeaderNode, since: float) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._since = since
        self.first: float | None = None

    def run(self) -> None:
        while self.first is None and time.monotonic() < self._since + GIVE_UP:
            with suppress(httpx.HTTPError):
                answer = httpx.post(
                    self._node.url + "/query",
                    json={"sql": "INSERT INTO t(x) VALUES ('x')"},
                    timeout=GIVE_UP,
                )
                if answer.status_code == 200:
                    self.first = time.monotonic()
                    return
            time.sleep(0.01)


def _place(nodes: dict[str, LeaderNode], leader: LeaderNode, case: str) -> None:
    """Let the streams' Raft leaders be where the case wants them."""
    other = next(n for n in nodes.values() if n is not leader)
    server = leader.name if case == "dies" else other.name
    admin = JetStreamAdmin(other)
    for stream in STREAMS:
        admin.move(stream, server)


def measure(nodes: dict[str, LeaderNode], case: str) -> float:
    """Seconds without a write. All nodes are there again when it returns."""
    leader = wait_leader(nodes, timeout=60)
    _place(nodes, leader, case)
    for node in nodes.values():
        node.wait_ready()
    assert wait_leader(nodes).name == leader.name, "it moved meanwhile"
    killed = _kill(leader)
    writers = [_Writer(node, killed) for node in nodes.values() if node is not leader]
    for writer in writers:
        writer.start()
    until(lambda: any(w.first for w in writers), GIVE_UP)
    seconds = min(w.first for w in writers if w.first is not None) - killed
    for writer in writers:
        writer.join(GIVE_UP)
    leader.start()
    leader.wait_ready()
    return seconds


def _summary(case: str, values: list[float]) -> str:
    values = sorted(values)
    at = {p: values[min(len(values) - 1, int(len(values) * p / 100))] for p in (50, 90, 99)}
    over = sum(v > 3.0 for v in values)
    return (
        f"{case:9} {len(values):3} failovers: least {values[0]:.2f} s, median {at[50]:.2f},"
        f" mean {statistics.fmean(values):.2f}, p90 {at[90]:.2f}, p99 {at[99]:.2f},"
        f" most {values[-1]:.2f}; {over} of them over 3 s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.failover", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--count", type=int, default=10, help="failovers of each case (10)")
    parser.add_argument("--case", choices=CASES, action="append", help="one case (both)")
    parser.add_argument("--out", type=Path, help="file for the times as JSON")
    parser.add_argument("--lease", default="2s", help="--leader-lease of the nodes (2s)")
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {case: [] for case in arguments.case or CASES}
    with (
        tempfile.TemporaryDirectory() as folder,
        three_servers(Path(folder), "--leader-lease", arguments.lease) as nodes,
    ):
        wait_leader(nodes, timeout=60).query(
            {"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)"}
        )
        for number in range(arguments.count):
            for case, values in times.items():
                try:
                    values.append(measure(nodes, case))
                except (AssertionError, httpx.HTTPError) as error:
                    print(f"{number} {case}: {error}", file=sys.stderr, flush=True)
                    for node in nodes.values():
                        print("\n".join([node.name, *node.lines[-15:]]), file=sys.stderr)
                        if node.process.poll() is not None:
                            node.start()
                    continue
                print(f"{number} {case}: {values[-1]:.2f} s", file=sys.stderr, flush=True)
    for case, values in times.items():
        if values:
            print(_summary(case, values))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(times), encoding="utf-8")


if __name__ == "__main__":
    main()
