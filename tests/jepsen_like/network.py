"""Where nodes live and how they reach each other.

:class:`Loopback` runs everywhere. :class:`Namespaces` gives each node a network of its own, with
an address and a cable to a bridge: packets between two nodes can be dropped, in one direction
too. It needs root, iproute2 and nsenter.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.jepsen_like.proxy import Proxy

_NETNS = Path("/run/netns")
_PREFIX = "ha-jepsen-"
_numbers = itertools.count(os.getpid())


class Network(ABC):
    """Addresses of nodes by their names, and what can be done to the cables between them."""

    kinds: tuple[str, ...] = ()  # faults that :meth:`break_up` knows

    @abstractmethod
    def address(self, name: str) -> str:
        """Under which the test, and the other nodes, reach what ``name`` listens on."""

    @abstractmethod
    def command(self, name: str) -> list[str]:
        """What stands before a command that is to run where ``name`` lives."""

    @abstractmethod
    def proxy(self, name: str, target: str, port: int) -> Proxy:
        """From the loopback of ``name`` to a port of ``target``."""

    @abstractmethod
    def ports(self, count: int) -> list[int]:
        """For servers that must come back on the ports that they had."""

    def break_up(self, kind: str, name: str) -> None:
        """Between ``name`` and all other nodes; the test still reaches them all."""
        raise NotImplementedError(kind)

    def heal(self) -> None:  # noqa: B027
        """All that :meth:`break_up` did is undone."""

    @abstractmethod
    def close(self) -> None: ...


class Loopback(Network):
    """All on one address; only proxies can stand between."""

    def address(self, name: str) -> str:
        return "127.0.0.1"

    def command(self, name: str) -> list[str]:
        return []

    def proxy(self, name: str, target: str, port: int) -> Proxy:
        return Proxy("127.0.0.1", port)

    def ports(self, count: int) -> list[int]:
        return free_ports(count)

    def close(self) -> None:
        pass


class Namespaces(Network):
    """Names begin with the pid of the test: ``ha-jepsen-PID-…``; 10.x.y.z are their addresses.

    ========  ====================================================
    isolate   no packet between the node and the others, both ways
    deaf      packets of the others do not reach it
    mute      its packets do not reach the others
    ========  ====================================================
    """

    kinds = ("isolate", "deaf", "mute")

    def __init__(self, names: Sequence[str]) -> None:
        """Raises OSError: this machine does not allow it."""
        _sweep()
        number = next(_numbers)
        self._names = list(names)
        self._subnet = f"10.{200 + number // 250 % 50}.{number % 250}"
        self._tag = f"{os.getpid()}-{number}"
        self._ports = itertools.count(4300)
        self._bridge = f"hajb{number % 10**7}"
        self._cables = [f"hajv{number % 10**7}{chr(97 + i)}" for i in range(len(names))]
        try:
            _ip(f"link add {self._bridge} type bridge")
            _ip(f"addr add {self._subnet}.254/24 dev {self._bridge}")
            _ip(f"link set {self._bridge} up")
            for name, cable in zip(self._names, self._cables, strict=True):
                space = self._space(name)
                _ip(f"netns add {space}")
                _ip(f"link add {cable} type veth peer name eth0 netns {space}")
                _ip(f"link set {cable} master {self._bridge} up")
                _ip(f"-n {space} addr add {self.address(name)}/24 dev eth0")
                _ip(f"-n {space} link set eth0 up")
                _ip(f"-n {space} link set lo up")
        except OSError:
            self.close()
            raise

    def _space(self, name: str) -> str:
        return f"{_PREFIX}{self._tag}-{name}"

    def address(self, name: str) -> str:
        return f"{self._subnet}.{self._names.index(name) + 1}"

    def command(self, name: str) -> list[str]:
        # Not `ip netns exec`: that gives it a copy of all mounts too, which keeps them alive.
        return ["nsenter", f"--net={_NETNS / self._space(name)}"]

    def proxy(self, name: str, target: str, port: int) -> Proxy:
        return Proxy(self.address(target), port, _NETNS / self._space(name))

    def ports(self, count: int) -> list[int]:
        return list(itertools.islice(self._ports, count))

    def break_up(self, kind: str, name: str) -> None:
        for other in self._names:
            if other != name:
                if kind in ("isolate", "mute"):
                    self._drop(name, other)
                if kind in ("isolate", "deaf"):
                    self._drop(other, name)

    def _drop(self, source: str, target: str) -> None:
        _ip(f"-n {self._space(source)} route replace blackhole {self.address(target)}/32")

    def heal(self) -> None:
        for name in self._names:
            _ip(f"-n {self._space(name)} route flush type blackhole")

    def close(self) -> None:
        for name in self._names:
            _ip(f"netns delete {self._space(name)}", check=False)  # the cable goes with it
        _ip(f"link delete {self._bridge}", check=False)


def _ip(words: str, *, check: bool = True) -> str:
    try:
        done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OSError("there is no `ip` command: install iproute2") from error
    if check and done.returncode:
        raise OSError(f"ip {words}: {done.stderr.strip()}")
    return done.stdout


def _sweep() -> None:
    """Remove what a test that was killed left behind."""
    if shutil.which("nsenter") is None:
        raise OSError("there is no `nsenter` command: install util-linux")
    for space in _NETNS.glob(f"{_PREFIX}*"):
        pid, number = space.name.removeprefix(_PREFIX).split("-")[:2]
        if not Path("/proc", pid).exists():
            _ip(f"netns delete {space.name}", check=False)
            _ip(f"link delete hajb{int(number) % 10**7}", check=False)


def free_ports(count: int) -> list[int]:
    """Of the loopback address."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
