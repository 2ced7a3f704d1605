"""Clusters in leader mode, of real nodes as processes."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import nats
import nats.errors

from tests.support.processes import HaProcess

T = TypeVar("T")

LEASE = 2.0


_held: list[socket.socket] = []


def free_port() -> int:
    """A node must know its own address before it starts.

    The port stays bound by us until the tests end, so that the system gives it to nobody else: who
    asks for it by its number may listen on it all the same (SO_REUSEADDR, of both, on Linux).
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _held.append(sock)
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


def until(find: Callable[[], T | None], timeout: float, *, pause: float = 0.02) -> T:
    """What ``find`` answers, as soon as that is true."""
    end = time.monotonic() + timeout
    while True:
        found = find()
        if found:
            return found
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(pause)


@contextmanager
def three_servers(folder: Path, *extra: str) -> Iterator[dict[str, LeaderNode]]:
    """Three nodes, each with a NATS server of its own: these keep three copies of the stream."""
    routes = {name: free_port() for name in "abc"}
    with ExitStack() as stack:
        nodes: dict[str, LeaderNode] = {}
        for name, port in routes.items():
            home = folder / name
            home.mkdir(parents=True, exist_ok=True)
            others = ", ".join(f'"nats://127.0.0.1:{p}"' for n, p in routes.items() if n != name)
            config = home / "nats.conf"
            config.write_text(
                f"server_name: {name}\n"
                f"cluster {{ name: test, listen: 127.0.0.1:{port}, routes: [{others}] }}\n"
            )
            node = LeaderNode(name, ["db.sqlite", "--nats-port", str(free_port())], home)
            node.arguments += ["--nats-config", str(config), "--replicas", "3", "--grpc-insecure"]
            node.arguments += ["--leader-addr", node.address, "--nats-logs", *extra]
            stack.callback(node.kill)
            nodes[name] = node
        with ThreadPoolExecutor(3) as pool:  # a NATS cluster is there when two of them are
            list(pool.map(LeaderNode.start, nodes.values()))
        for node in nodes.values():
            node.wait_ready()
        yield nodes


class JetStreamAdmin:
    """Asks the NATS servers of a cluster who leads what, and has it changed."""

    def __init__(self, node: LeaderNode) -> None:
        self._url = f"nats://127.0.0.1:{node.ports['nats']}"

    def request(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer."""

        async def ask() -> dict[str, Any]:
            client = await nats.connect(self._url, allow_reconnect=False)
            try:
                payload = b"" if body is None else json.dumps(body).encode()
                answer = await client.request(f"$JS.API.{subject}", payload, timeout=5)
                document: dict[str, Any] = json.loads(answer.data)
                return document
            finally:
                await client.close()

        return asyncio.run(ask())

    def leader_of(self, stream: str) -> str | None:
        """The server that is the Raft leader of a stream, and has all copies up to date."""
        cluster = self.request(f"STREAM.INFO.{stream}").get("cluster") or {}
        current = all(r.get("current") for r in cluster.get("replicas") or ())
        return cluster.get("leader") if current else None

    def move(self, stream: str, server: str, timeout: float = 60.0) -> None:
        """Let ``server`` be the Raft leader of the stream."""

        def done() -> bool:
            try:
                leader = self.leader_of(stream)
                if leader is not None and leader != server:
                    self.request(
                        f"STREAM.LEADER.STEPDOWN.{stream}", {"placement": {"preferred": server}}
                    )
                return leader == server
            except (nats.errors.Error, OSError):
                return False

        until(done, timeout, pause=0.2)
