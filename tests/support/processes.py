"""Real nodes: ``python -m ha`` as processes on ports that the system hands out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.patience import Patience

_PORT = re.compile(r" (http|postgresql|nats) port=(\d+)")
_CATCHING_UP = re.compile(r"catching up with the log, at (\d+)")
START_SILENCE = 60.0
"""Seconds without a line of its log after which a node that starts is given up."""
_START_LONGEST = 300.0
_LOOK = 0.2


class HaProcess:
    """A node in a process of its own. Use :func:`running_node`, or start and stop it yourself.

    ``prefix`` stands before the command, ``environment`` is added to ours, and ``host`` is
    where the node is reached.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.arguments = list(arguments)
        self.cwd = cwd
        self.prefix = list(prefix)
        self.environment = dict(environment or {})
        self.host = host
        self.ports: dict[str, int] = {}
        self.lines: list[str] = []
        self.client = httpx.Client(timeout=60.0)
        self._serving = threading.Event()

    def start(self, silence: float = START_SILENCE) -> Self:
        """Returns when it serves; fails with its log if it does not, and is silent so long."""
        former: threading.Thread | None = getattr(self, "_reader", None)
        if former is not None:
            former.join(10)  # or its last lines would be taken for the new process's
        self._serving.clear()
        self.ports.clear()  # those of an earlier process are another's by now
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "ha", *self.arguments],
            cwd=self.cwd,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        patience = Patience(silence, lambda: len(self.lines), longest=_START_LONGEST)
        while not self._serving.wait(min(_LOOK, silence)) and not patience.is_over():
            pass
        if not self._serving.is_set() or "http" not in self.ports:
            self.kill()
            raise AssertionError("the node does not serve:\n" + "\n".join(self.lines[-30:]))
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            match = _PORT.search(line)
            if match:
                self.ports[match[1]] = int(match[2])
            if " serving " in line:
                self._serving.set()
        self._serving.set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.ports['http']}"

    @property
    def nats_url(self) -> str:
        return f"nats://{self.host}:{self.ports['nats']}"

    def query(self, body: Any, path: str = "/query", timeout: float = 60.0) -> Any:
        """The JSON answer; raises httpx.HTTPStatusError for anything but 2xx."""
        answer = self.client.post(self.url + path, json=body, timeout=timeout)
        try:
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            error.add_note(answer.text)
            raise
        return answer.json()

    def rows(self, sql: str) -> list[list[Any]]:
        rows: list[list[Any]] = self.query({"sql": sql})["rows"]
        return rows

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until ``/readyz`` is 200; as long as that takes while the node catches up."""
        self._until(lambda: self.client.get(self.url + "/readyz").status_code == 200, timeout)

    def wait_rows(self, sql: str, expected: list[list[Any]], timeout: float = 60.0) -> None:
        """Until the query answers ``expected``."""
        self._until(lambda: self.rows(sql) == expected, timeout, lambda: self.rows(sql))

    def patience(self, seconds: float) -> Patience:
        """With this node: it counts for progress that it catches up with the log."""
        return Patience(seconds, self._catching_up)

    def _catching_up(self) -> int | None:
        """How far it is; None when it does not catch up, or does not answer."""
        try:
            answer = self.client.get(self.url + "/readyz", timeout=5.0)
        except (httpx.HTTPError, KeyError):
            return None
        match = _CATCHING_UP.search(answer.text)
        return int(match[1]) if match else None

    def _until(self, condition: Any, timeout: float, show: Any = None) -> None:
        # Polling over HTTP is all that a client of another process can do.
        patience = self.patience(timeout)
        while True:
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            if patience.is_over():
                raise AssertionError(f"not within {timeout} s: {show() if show else ''}")
            time.sleep(0.05)

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        """SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(5)


@contextmanager
def running_node(
    name: str, *arguments: str, cwd: Path, nats: bool = True, memory: bool = True
) -> Iterator[HaProcess]:
    """A node on free ports; with ``nats`` its embedded server, on a free port too."""
    base = ["-n", name, "--port", "0", "--nats-port", "-1" if nats else "0"]
    if memory:
        base.append("-m")
    node = HaProcess([*base, *arguments], cwd).start()
    try:
        yield node
    finally:
        node.kill()
