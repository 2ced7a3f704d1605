"""The clusters under test: nodes and NATS servers as processes, with proxies between them."""

from __future__ import annotations

import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.jepsen_like.proxy import Proxy
from tests.support.processes import HaProcess

_STARTS = 4


def free_ports(count: int) -> list[int]:
    """For servers that must come back on the ports that they had."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def nats_pid(node: HaProcess) -> int | None:
    """The nats-server below the node's process; None while there is none."""
    parents: dict[int, tuple[int, bytes]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                name = (entry / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue  # it ended while we looked
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), name)
    for pid, (parent, name) in parents.items():
        if not name.endswith(b"nats-server"):
            continue
        while parent in parents and parent != node.process.pid:
            parent = parents[parent][0]
        if parent == node.process.pid:
            return pid
    return None


class Cluster(ABC):
    """``links``: the proxies that connect what bears that name to the rest."""

    servers: tuple[str, ...]  # the nodes that have a NATS server

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links: dict[str, list[Proxy]] = {}
        self.nodes: dict[str, HaProcess] = {}

    @abstractmethod
    def start(self) -> None:
        """Returns when all nodes are ready."""

    def _add(self, name: str, *arguments: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        self.nodes[name] = HaProcess(["-n", name, "--port", "0", *arguments], folder)

    def _wait_ready(self) -> None:
        for node in self.nodes.values():
            node.wait_ready()

    def restart(self, name: str) -> None:
        """Starts a killed node, as a supervisor would: again if it gave up without a log.

        A node that starts while NATS elects may find no log in time, and says so when it ends.
        """
        node = self.nodes[name]
        for _ in range(_STARTS):
            seen = len(node.lines)
            node.start()
            lines = node.lines[seen:]
            if any(" serving " in line for line in lines):
                return
            node.kill()
            if not any("no log" in line for line in lines):
                break
        raise AssertionError(f"{name} does not come back:\n" + "\n".join(node.lines[-30:]))

    def signal_nats(self, name: str, number: int) -> int:
        """Signals the NATS server of a node; its pid."""
        pid = nats_pid(self.nodes[name])
        if pid is None:
            raise AssertionError(f"{name} has no nats-server")
        os.kill(pid, number)
        return pid

    def close(self) -> None:
        """Ends all that was started, stopped processes too; then the logs are in the folder."""
        for name, node in self.nodes.items():
            if not hasattr(node, "process"):
                continue  # never started
            server = nats_pid(node) if node.process.poll() is None else None
            if server is not None:
                os.kill(server, signal.SIGKILL)
            node.kill()
            node.client.close()
            (self.folder / f"{name}.log").write_text("\n".join(node.lines), encoding="utf-8")
        for proxy in {id(one): one for link in self.links.values() for one in link}.values():
            proxy.close()


class OneServer(Cluster):
    """``n1`` has a file and the server, ``n2`` is in memory, ``n3`` has a file.

    ``n2`` and ``n3`` reach the server through a proxy each.
    """

    servers = ("n1",)

    def start(self) -> None:
        # Short, so that faults of seconds bring writes into doubt.
        common = ("db.sqlite", "--replication-timeout", "1s", "--nats-port")
        (port,) = free_ports(1)
        self._add("n1", *common, str(port))
        self.nodes["n1"].start()
        for name, where in (("n2", ["-m"]), ("n3", [])):
            proxy = Proxy(port)
            self.links[name] = [proxy]
            url = f"nats://127.0.0.1:{proxy.port}"
            self._add(name, *common, "0", "--replication-url", url, *where)
            self.nodes[name].start()
        self._wait_ready()


class ThreeServers(Cluster):
    """Each node has a server; the three form a NATS cluster with three copies of the stream.

    Each server reaches each other one through a proxy, so that one can be cut off. The time-out
    is longer than an election of NATS: a node that starts meanwhile gives up after it.
    """

    servers = ("n1", "n2", "n3")

    def start(self) -> None:
        ports = dict(zip(self.servers, free_ports(len(self.servers)), strict=True))
        self.links = {name: [] for name in self.servers}
        for name in self.servers:
            proxies = {other: Proxy(ports[other]) for other in self.servers if other != name}
            for other, proxy in proxies.items():
                self.links[name].append(proxy)
                self.links[other].append(proxy)
            config = self.folder / f"{name}.conf"
            config.write_text(_nats_config(name, ports[name], proxies.values()), encoding="utf-8")
            self._add(
                name, "db.sqlite", "--nats-port", "-1", "--replicas", "3",
                "--nats-config", str(config), "--replication-timeout", "10s",
                *(["-m", "--nats-store-dir", "store"] if name == "n2" else []),
            )  # fmt: skip
        # Two of its servers must be there before the cluster is: they start together.
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(HaProcess.start, self.nodes.values()))
        self._wait_ready()


def _nats_config(name: str, port: int, proxies: Iterable[Proxy]) -> str:
    routes = ", ".join(f'"nats://127.0.0.1:{one.port}"' for one in proxies)
    # Servers tell each other where others are; an address where nobody listens keeps them
    # from passing by the proxies.
    return (
        f"server_name: {name}\n"
        f'cluster {{ name: test, listen: 127.0.0.1:{port}, advertise: "127.0.0.1:1",\n'
        f"  no_advertise: true, routes: [{routes}] }}\n"
    )
