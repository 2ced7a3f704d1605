"""Fixtures for all tests: real NATS servers, fast to start, on ports of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ha.log import guard
from ha.log.server import binary

_READY_TIMEOUT = 20.0


class NatsProcess:
    """A nats-server with JetStream on 127.0.0.1, without a supervisor: tests break it.

    It keeps its port and its store over :meth:`restart`. Blocking: a start takes 30 ms.
    """

    def __init__(self, folder: Path, config: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = 0
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return self._log_path.read_text(errors="replace")

    @property
    def _log_path(self) -> Path:
        return self.folder / f"nats-{self._starts}.log"

    def start(self) -> None:
        assert self._process is None, "it runs already"
        config = self.folder / "test.conf"
        config.write_text(
            f"host: 127.0.0.1\nport: {self.port or -1}\nmax_payload: 8MB\n"
            f'jetstream {{ store_dir: "{self.folder / "store"}" }}\n{self._config}\n'
        )
        self._starts += 1
        with self._log_path.open("wb") as log:
            command = [binary(), "-c", str(config)]
            mode = "exec" if sys.platform == "linux" else "watch"
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), mode, *command],
                stdin=subprocess.DEVNULL if mode == "exec" else subprocess.PIPE,
                stderr=log,
            )
        deadline = time.monotonic() + _READY_TIMEOUT
        while "Server is ready" not in self.log:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server did not start:\n{self.log}")
            time.sleep(0.002)
        if not self.port:
            line = next(x for x in self.log.splitlines() if "for client connections on" in x)
            self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL, as a crash is. Does nothing when it is down."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM, as an orderly restart is."""
        self._end(signal.SIGTERM)

    def _end(self, by: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(by)
        process.send_signal(signal.SIGCONT)  # a stopped one would not take SIGTERM
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """SIGSTOP: it keeps its connections and says nothing, once this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it has ended"

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, and start it again on the same port and store."""
        self.kill()
        self.start()


@pytest.fixture
def make_nats_server(tmp_path: Path) -> Iterator[Callable[..., NatsProcess]]:
    """Start servers: ``make_nats_server(config="…")``, each with a store of its own."""
    servers: list[NatsProcess] = []

    def make(config: str = "") -> NatsProcess:
        server = NatsProcess(tmp_path / f"nats-server-{len(servers)}", config)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def nats_server(make_nats_server: Callable[..., NatsProcess]) -> NatsProcess:
    """A fresh server for this test alone, which may kill, stop and restart it."""
    return make_nats_server()


@pytest.fixture(scope="session")
def shared_nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    """One server a test process, never broken: use a stream name of your own on it."""
    server = NatsProcess(tmp_path_factory.mktemp("shared-nats"))
    server.start()
    yield server
    server.kill()
