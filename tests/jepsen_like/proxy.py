"""A TCP proxy on loopback that can be told to misbehave, between a node and its NATS server."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

_DELAY = 0.15  # seconds, each way and piece
_PIECE = 65_536
_CLONE_NEWNET = 0x40000000


class Mode(StrEnum):
    PASS = "pass"
    CUT = "cut"  # connections are reset, new ones too
    DELAY = "delay"  # each piece is late
    STALL = "stall"  # nothing passes, nothing breaks; what was held passes afterwards
    LOSE_ANSWERS = "lose_answers"  # half-open: requests arrive, answers never do


class Proxy:
    """Listens on a port of its own; runs in a thread with an event loop of its own.

    With ``namespace``, a file, that thread lives in this network namespace: it listens on the
    loopback of there, and connects to ``host`` from there.
    """

    def __init__(self, host: str, target: int, namespace: Path | None = None) -> None:
        self._host = host
        self._target = target
        self._namespace = namespace
        self._failure: BaseException | None = None
        self._mode = Mode.PASS
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._up = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        if not self._up.wait(10) or self._failure is not None:
            raise AssertionError(f"the proxy did not start: {self._failure}")

    def set(self, mode: Mode) -> None:
        """Returns when the mode holds."""
        asyncio.run_coroutine_threadsafe(self._set(mode), self._loop).result(10)

    def close(self) -> None:
        self.set(Mode.CUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            if self._namespace is not None:
                _enter(self._namespace)
            server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        except OSError as error:
            self._failure = error
            self._up.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def _set(self, mode: Mode) -> None:
        # What a half-open connection lost stays lost: it cannot go on afterwards.
        reset = mode is Mode.CUT or self._mode is Mode.LOSE_ANSWERS
        self._mode = mode
        if reset:
            for writer in self._writers:
                writer.transport.abort()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        peer: asyncio.StreamWriter | None = None
        try:
            if self._mode is Mode.CUT:
                writer.transport.abort()
                return
            answers, peer = await asyncio.open_connection(self._host, self._target)
            self._writers.add(peer)
            pumps = {
                asyncio.ensure_future(self._pump(reader, peer, answer=False)),
                asyncio.ensure_future(self._pump(answers, writer, answer=True)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the server is down: so is this connection
        finally:
            for one in (writer, peer):
                if one is not None:
                    self._writers.discard(one)
                    one.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bool
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                while self._mode is Mode.STALL or (answer and self._mode is Mode.LOSE_ANSWERS):
                    await self._changed.wait()
                if self._mode is Mode.DELAY:
                    await asyncio.sleep(_DELAY)
                writer.write(piece)
                await writer.drain()


def _enter(namespace: Path) -> None:
    """This thread alone. Raises OSError."""
    file = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(file, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    finally:
        os.close(file)
