"""Clusters in leader mode, of real nodes as processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import HaProcess

LEASE = 2.0


def free_port() -> int:
    """A node must know its own address before it starts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class LeaderNode(HaProcess):
    """A node with a port of its own choice."""

    def __init__(self, name: str, arguments: Sequence[str], cwd: Path, port: int = 0) -> None:
        self.name = name
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        super().__init__(["-n", name, "--port", str(self.port), *arguments], cwd)

    def leader(self) -> str | None:
        """Whom this node takes for the leader; None: nobody, or it does not answer."""
        try:
            answer = self.client.get(self.url + "/metrics", timeout=2.0)
            answer.raise_for_status()
        except httpx.HTTPError:
            return None
        values = dict(
            line.rsplit(" ", 1) for line in answer.text.splitlines() if line.startswith("ha_leader")
        )
        return self.name if float(values["ha_leader"]) else None

    def try_write(self, sql: str, timeout: float = 10.0) -> dict[str, Any]:
        """The JSON answer, an error too; ``{"error": {"code": "gone"}}`` if there is none."""
        try:
            answer = self.client.post(self.url + "/query", json={"sql": sql}, timeout=timeout)
        except httpx.HTTPError as error:
            return {"error": {"code": "gone", "message": str(error)}}
        document: dict[str, Any] = answer.json()
        return document


@contextmanager
def leader_cluster(
    folder: Path, url: str, *extra: str, names: str = "abc"
) -> Iterator[dict[str, LeaderNode]]:
    """Nodes that elect a leader through the NATS server at ``url``."""
    with ExitStack() as stack:
        nodes: dict[str, LeaderNode] = {}
        for name in names:
            home = folder / name
            home.mkdir(exist_ok=True)
            node = LeaderNode(name, [], home)
            node.arguments += ["--nats-port", "0", "--replication-url", url, "--grpc-insecure"]
            node.arguments += ["--leader-addr", node.address, *extra]
            stack.callback(node.kill)
            nodes[name] = node.start()
        yield nodes


def wait_leader(
    nodes: dict[str, LeaderNode], *, other_than: str = "", timeout: float = 20.0
) -> LeaderNode:
    """The node that leads, as soon as one does."""
    return until(
        lambda: next(
            (n for n in nodes.values() if n.name != other_than and n.leader() == n.name), None
        ),
        timeout,
    )


def until(find: Callable[[], Any], timeout: float) -> Any:
    """What ``find`` answers, as soon as that is true."""
    end = time.monotonic() + timeout
    while True:
        found = find()
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.02)
