"""The cluster under test: three nodes on one NATS server, two of them through proxies.

``n1`` has a file and the server, ``n2`` is in memory, ``n3`` has a file.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from tests.jepsen_like.proxy import Proxy
from tests.support.processes import HaProcess

REPLICATION_TIMEOUT = "1s"  # short, so that faults of seconds bring writes into doubt


def free_port() -> int:
    """For a server that must come back on the port that it had."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


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


class Cluster:
    """Starts in the constructor's order; :meth:`close` ends all that was started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats_port = free_port()
        self.proxies: dict[str, Proxy] = {}
        self.nodes: dict[str, HaProcess] = {}
        try:
            self._start("n1", "db.sqlite", "--nats-port", str(self.nats_port))
            for name, more in (("n2", "-m"), ("n3", "")):
                proxy = Proxy(self.nats_port)
                self.proxies[name] = proxy
                url = f"nats://127.0.0.1:{proxy.port}"
                arguments = [more] if more else []
                self._start(
                    name, "db.sqlite", *arguments, "--nats-port", "0", "--replication-url", url
                )
            for node in self.nodes.values():
                node.wait_ready()
        except BaseException:
            self.close()
            raise

    def _start(self, name: str, *arguments: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        node = HaProcess(
            ["-n", name, "--port", "0", "--replication-timeout", REPLICATION_TIMEOUT, *arguments],
            folder,
        )
        self.nodes[name] = node.start()

    def signal_nats(self, number: int) -> int:
        """Signals the NATS server; its pid."""
        pid = nats_pid(self.nodes["n1"])
        if pid is None:
            raise AssertionError("n1 has no nats-server")
        os.kill(pid, number)
        return pid

    def close(self) -> None:
        for node in self.nodes.values():
            if not hasattr(node, "process"):
                continue
            if node.process.poll() is None:
                pid = nats_pid(node)
                for one in (pid, node.process.pid):
                    if one is not None:
                        os.kill(one, signal.SIGCONT)
            node.kill()
            node.client.close()
        for proxy in self.proxies.values():
            proxy.close()
        self.save_logs()

    def save_logs(self) -> None:
        for name, node in self.nodes.items():
            (self.folder / f"{name}.log").write_text("\n".join(node.lines), encoding="utf-8")
