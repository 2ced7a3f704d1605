"""A real HTTP server on a free port of 127.0.0.1, inside the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import trio

from ha.wire.http.asgi import Application
from ha.wire.http.server import Address, serve


@asynccontextmanager
async def serving(app: Application, **options: Any) -> AsyncIterator[Address]:
    """Serve ``app``; at the end shut down in the orderly way, which must not take long."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        options = {"host": "127.0.0.1", "port": 0, "shutdown_trigger": stop.wait, **options}
        (address,) = await nursery.start(partial(serve, app, **options))
        yield address
        stop.set()


@asynccontextmanager
async def client_of(app: Application, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(app, **options) as address,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.port}") as client,
    ):
        yield client
