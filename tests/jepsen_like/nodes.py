"""The clusters under test: nodes and NATS servers as processes, and what stands between them."""

from __future__ import annotations

import os
import re
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.jepsen_like.clock import Clock
from tests.jepsen_like.disks import Mount
from tests.jepsen_like.machine import DISK_MIB, Machine
from tests.jepsen_like.network import Network
from tests.jepsen_like.proxy import Mode, Proxy
from tests.support.processes import HaProcess

NAMES = ["n1", "n2", "n3"]
PG_USER = PG_PASSWORD = "ha"
_STARTS = 4
_NO_LOG = re.compile("no log|log did not answer")
_MEMORY = ["-m", "--from-latest-snapshot", "--nats-store-dir", "store"]
_GONE = 20.0  # seconds for a killed process to be gone


@dataclass(frozen=True, slots=True)
class Options:
    """``mode``: leaderless or leader; ``durability``: normal or full; ``snapshots``: regularly."""

    mode: str = "leaderless"
    durability: str = "full"
    snapshots: bool = False


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
    """``links``: the proxies that connect what bears that name to the rest.

    Each node's folder is its disk: a mount, where the machine has one to give.
    """

    servers: tuple[str, ...]  # the nodes that have a NATS server

    def __init__(self, folder: Path, machine: Machine, options: Options) -> None:
        self.folder = folder
        self.machine = machine
        self.options = options
        self.links: dict[str, list[Proxy]] = {}
        self.nodes: dict[str, HaProcess] = {}
        self.disks: dict[str, Mount] = {}
        self.clocks: dict[str, Clock] = {}
        self.network: Network | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The faults that can be had here."""
        always = ("kill_node", "kill_nats", "stop_node", "stop_nats")
        proxied = tuple(mode.value for mode in Mode if mode is not Mode.PASS)
        kinds = always + proxied + self.machine.kinds
        if self.options.durability != "full":
            # It promises nothing then: see tests/jepsen_like/power.py.
            kinds = tuple(kind for kind in kinds if kind != "power_loss")
        return kinds

    def start(self) -> None:
        """Returns when all nodes are ready."""
        self.network = self.machine.network(NAMES)
        self._build(self.network)
        self.start_nodes()

    @abstractmethod
    def _build(self, network: Network) -> None:
        """Makes the proxies, and the nodes by :meth:`_add`."""

    def _add(self, name: str, *arguments: str) -> None:
        assert self.network is not None
        folder = self.folder / name
        folder.mkdir()
        if self.machine.disk is not None:
            self.disks[name] = self.machine.disk(folder, DISK_MIB)
        environment = {"PYTHONFAULTHANDLER": "1"}
        if self.machine.faketime is not None:
            clock = Clock(self.folder / f"{name}.clock", self.machine.faketime)
            self.clocks[name] = clock
            environment |= clock.environment
        common = ["db.sqlite", "-n", name, "--pg-port", "-1", "--nats-logs"]
        if self.options.snapshots:
            common += ["--snapshot-interval", "1m"]
        if self.options.durability == "full":
            common += ["--durability", "full"]
        common += self._leader_arguments(name, self.network)
        self.nodes[name] = HaProcess(
            [*common, *arguments],
            folder,
            prefix=self.network.command(name),
            environment=environment,
            host=self.network.address(name),
        )

    def _leader_arguments(self, name: str, network: Network) -> list[str]:
        if self.options.mode == "leaderless":
            return ["--port", "0"]
        # Followers send writes there, so it must be known before the node has started.
        (port,) = network.ports(1)
        address = f"{network.address(name)}:{port}"
        wait = ["--leader-wait", "2s"]  # less than the time-out of our clients
        return ["--port", str(port), "--leader-addr", address, "--grpc-insecure", *wait]

    def start_nodes(self) -> None:
        self._restart_all(list(self.nodes))
        for node in self.nodes.values():
            node.wait_ready()

    def _restart_all(self, names: list[str]) -> None:
        """Servers first. They start together: a NATS cluster is there when two of them are."""
        servers = [name for name in names if name in self.servers]
        for some in (servers, [name for name in names if name not in servers]):
            if some:
                with ThreadPoolExecutor(len(some)) as pool:
                    list(pool.map(self.restart, some))

    def restart(self, name: str) -> None:
        """Starts a killed node, as a supervisor would: again if it gave up without a log.

        A node that starts while its NATS server is not there may find no log in time, and says
        so when it ends.
        """
        node = self.nodes[name]
        for _ in range(_STARTS):
            seen = len(node.lines)
            try:
                node.start()
                return
            except AssertionError:
                if not any(_NO_LOG.search(line) for line in node.lines[seen:]):
                    break
        raise AssertionError(f"{name} does not come back:\n" + "\n".join(node.lines[-30:]))

    def tell_where(self, name: str) -> str:
        """Ends a node that hangs; the stacks of its threads, which stand in its log too."""
        node = self.nodes[name]
        seen = len(node.lines)
        if node.process.poll() is None:
            node.process.send_signal(signal.SIGABRT)
            node.process.wait(_GONE)
            node.kill()
        return "\n".join(node.lines[seen:])

    def signal_nats(self, name: str, number: int) -> int:
        """Signals the NATS server of a node; its pid."""
        pid = nats_pid(self.nodes[name])
        if pid is None:
            raise AssertionError(f"{name} has no nats-server")
        os.kill(pid, number)
        return pid

    def kill(self, *names: str) -> None:
        """The nodes and their servers, at one moment as far as that goes."""
        servers: list[int] = []
        nodes = [self.nodes[name] for name in names]
        for node in nodes:
            node.process.send_signal(signal.SIGSTOP)
        for node in nodes:
            server = nats_pid(node)
            if server is not None:
                os.kill(server, signal.SIGKILL)
                servers.append(server)
        for node in nodes:
            node.kill()
        end = time.monotonic() + _GONE
        while any(_runs(server) for server in servers):
            if time.monotonic() > end:
                raise AssertionError("a killed nats-server is still there")
            time.sleep(0.01)  # they are not our children: nothing tells

    def lose_power(self, names: Iterable[str], seed: int) -> None:
        """All at once; they are started again with what their disks have kept."""
        lost = list(names)
        self.kill(*lost)
        for name in lost:
            self.disks[name].lose(seed)
        self._restart_all(lost)

    def close(self) -> None:
        """Ends all that was started, stopped processes too; then the logs are in the folder."""
        started = {name: node for name, node in self.nodes.items() if hasattr(node, "process")}
        try:
            for name, node in started.items():
                if node.process.poll() is None:
                    self.kill(name)
                node.client.close()
                log = self.folder / f"{name}.log"
                log.write_text("\n".join(node.lines), encoding="utf-8")
            for proxy in {id(one): one for link in self.links.values() for one in link}.values():
                proxy.close()
        finally:
            for disk in self.disks.values():
                disk.close()
            if self.network is not None:
                self.network.close()


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class OneServer(Cluster):
    """``n1`` has a file and the server, ``n2`` is in memory, ``n3`` has a file.

    ``n2`` and ``n3`` reach the server through a proxy each.
    """

    servers = ("n1",)

    def _build(self, network: Network) -> None:
        # Short, so that faults of seconds bring writes into doubt.
        common = ("--replication-timeout", "1s", "--nats-port")
        (port,) = network.ports(1)
        self._add("n1", *common, str(port))
        for name, where in (("n2", ["-m", "--from-latest-snapshot"]), ("n3", [])):
            proxy = network.proxy(name, "n1", port)
            self.links[name] = [proxy]
            url = f"nats://127.0.0.1:{proxy.port}"
            trust = ["--trust-broker-sync"] if self.options.durability == "full" else []
            self._add(name, *common, "0", "--replication-url", url, *where, *trust)


class ThreeServers(Cluster):
    """Each node has a server; the three form a NATS cluster with three copies of the stream.

    Each server reaches each other one through a proxy, so that one can be cut off.
    """

    servers = ("n1", "n2", "n3")

    def _build(self, network: Network) -> None:
        ports = dict(zip(self.servers, network.ports(len(self.servers)), strict=True))
        self.links = {name: [] for name in self.servers}
        for name in self.servers:
            proxies = {o: network.proxy(name, o, ports[o]) for o in self.servers if o != name}
            for other, proxy in proxies.items():
                self.links[name].append(proxy)
                self.links[other].append(proxy)
            config = self.folder / f"{name}.conf"
            listen = f"{network.address(name)}:{ports[name]}"
            config.write_text(_nats_config(name, listen, proxies.values()), encoding="utf-8")
            self._add(
                name, "--nats-port", "-1", "--replicas", "3",
                "--nats-config", str(config), "--replication-timeout", "2s",
                *(_MEMORY if name == "n2" else []),
            )  # fmt: skip


def _nats_config(name: str, listen: str, proxies: Iterable[Proxy]) -> str:
    routes = ", ".join(f'"nats://127.0.0.1:{one.port}"' for one in proxies)
    # Servers tell each other where others are; an address where nobody listens keeps them
    # from passing by the proxies.
    return (
        f"server_name: {name}\n"
        f'cluster {{ name: test, listen: {listen}, advertise: "127.0.0.1:1",\n'
        f"  no_advertise: true, routes: [{routes}] }}\n"
    )


TOPOLOGIES: dict[str, type[Cluster]] = {"one-server": OneServer, "three-servers": ThreeServers}
