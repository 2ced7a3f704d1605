"""A TCP proxy on loopback that can be told to misbehave, between a node and its NATS server."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from enum import StrEnum

_DELAY = 0.15  # seconds, each way and piece
_PIECE = 65_536


class Mode(StrEnum):
    PASS = "pass"
    CUT = "cut"  # connections are reset, new ones too
    DELAY = "delay"  # each piece is late
    STALL = "stall"  # nothing passes, nothing breaks; what was held passes afterwards
    LOSE_ANSWERS = "lose_answers"  # half-open: requests arrive, answers never do


class Proxy:
    """Listens on a port of its own; runs in a thread with an event loop of its own."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._mode = Mode.PASS
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._up = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        if not self._up.wait(10):
            raise AssertionError("the proxy did not start")

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
        server = loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
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
            answers, peer = await asyncio.open_connection("127.0.0.1", self._target)
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
