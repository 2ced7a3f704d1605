"""A node with HTTP and gRPC on a free port, in a thread of its own: for clients that block."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ha.engine.committer import CommitOptions
from ha.engine.database import DatabaseOptions
from ha.engine.databases import Databases
from ha.engine.runtime import Runtime
from ha.log.memory import MemoryBroker, MemoryStream
from ha.store.file import Store, StoreOptions
from ha.wire.grpc.app import create_apps
from ha.wire.grpc.session import Limits
from ha.wire.http.app import create_app
from ha.wire.http.auth import Guard
from ha.wire.http.server import Tls, serve


@dataclass
class Served:
    """A running node. ``call`` runs a function in its trio thread."""

    port: int
    databases: Databases
    trio_token: trio.lowlevel.TrioToken
    shutdown: trio.Event
    killed: trio.CancelScope
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        async def run() -> Any:
            result = function(*args)
            return await result if hasattr(result, "__await__") else result

        return trio.from_thread.run(run, trio_token=self.trio_token)

    def wait_running(self) -> None:
        """Until a statement runs."""
        database = self.databases.get()

        async def look() -> None:
            with trio.fail_after(20):
                # The engine tells nobody.
                while database.limiter._semaphore.value == database.options.concurrent:  # noqa: ASYNC110
                    await trio.sleep(0.005)

        self.call(look)

    def kill(self) -> None:
        """All connections are cut, nothing is said."""
        self.call(self.killed.cancel)
        assert self.stopped.wait(20)

    def stop(self) -> None:
        """The orderly way."""
        self.call(self.shutdown.set)
        assert self.stopped.wait(20)


@contextmanager
def serving(
    *ids: str,
    port: int = 0,
    stream: MemoryStream | None = None,
    folder: Path | None = None,
    node: str = "n1",
    token: str | None = None,
    limits: Limits | None = None,
    tls: Tls | None = None,
    **commit: Any,
) -> Iterator[Served]:
    """Serve databases (``ha.db``) on a log in memory, until killed, stopped or left."""
    started = threading.Event()
    stopped = threading.Event()
    found: list[Served] = []
    failures: list[BaseException] = []

    async def run() -> None:
        options = DatabaseOptions(CommitOptions(node=node, **commit))
        async with MemoryBroker(stream or MemoryStream(epoch="test"), node=node) as broker:
            databases = Databases(
                broker, options, Runtime(random=random.Random(1)), stream=broker.stream.name
            )
            async with trio.open_nursery() as nursery:
                for name in ids or ("ha.db",):
                    store = (
                        Store.open_memory(name, StoreOptions(synchronous="OFF"))
                        if folder is None
                        else Store.open(str(folder / name), StoreOptions(synchronous="OFF"))
                    )
                    await databases.open(name, store, nursery)
                shutdown = trio.Event()
                apps = create_apps(
                    databases, authorize=Guard(token).check, limits=limits, shutdown=shutdown
                )
                app = create_app(databases, token=token, mount=apps)
                with trio.CancelScope() as killed:
                    async with trio.open_nursery() as wires:
                        (address,) = await wires.start(
                            partial(
                                serve,
                                app,
                                host="127.0.0.1",
                                port=port,
                                tls=tls,
                                shutdown_trigger=shutdown.wait,
                            )
                        )
                        here = trio.lowlevel.current_trio_token()
                        served = Served(address.port, databases, here, shutdown, killed, stopped)
                        found.append(served)
                        started.set()
                nursery.cancel_scope.cancel()
            databases.close()

    def main() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            failures.append(error)
        finally:
            stopped.set()
            started.set()

    thread = threading.Thread(target=main, name="ha-node")
    thread.start()
    started.wait()
    try:
        if failures:
            raise failures[0]
        yield found[0]
    finally:
        if found and not stopped.is_set():
            found[0].kill()
        thread.join()
    if failures:
        raise failures[0]
