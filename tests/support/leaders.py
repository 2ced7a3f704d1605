"""Clusters with a leader in one process: real engines, real servers, and an office that a test
gives to whom it likes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import httpx
import trio

from ha.core.errors import Code, HaError
from ha.dbapi.aio import AsyncConnection
from ha.dbapi.aio import connect as connect_dbapi
from ha.engine.forwarding import Cluster
from ha.engine.leadership import Leader, Member, Role
from ha.engine.operations import NodeOperations
from ha.engine.place import Place
from ha.forward.forwarder import ForwardOptions, GrpcForwarder
from ha.log.memory import MemoryBroker, MemoryStream
from ha.wire.grpc.app import create_apps
from ha.wire.http.app import create_app
from ha.wire.http.auth import Guard
from ha.wire.http.server import Tls
from ha.wire.http.server import serve as serve_http
from ha.wire.postgres.config import Config as PgConfig
from ha.wire.postgres.forwarded import prepare_for
from ha.wire.postgres.server import serve as serve_pg
from tests.support.cluster import OPTIONS, TestNode, open_node
from tests.support.pg import FAST, PgServer


class Office:
    """Who leads: what an election would say, said by the test."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self.term = 0
        self.changed = trio.Event()
        self.confirmations = 0

    def give(self, node: LeaderNode | None, address: str | None = None) -> None:
        """``address``: another one than its own."""
        self.term += node is not None
        self.leader = None
        if node is not None:
            self.leader = Leader(node.name, address or node.address, self.term)
        changed, self.changed = self.changed, trio.Event()
        changed.set()


class FakeLeadership:
    def __init__(self, office: Office, name: str) -> None:
        self.office = office
        self.name = name
        self.applied: Callable[[], int] = lambda: 0
        self.members_seen: tuple[Member, ...] = ()

    @property
    def role(self) -> Role:
        if self.office.leader is None:
            return Role.NONE
        return Role.LEADER if self.office.leader.name == self.name else Role.FOLLOWER

    @property
    def term(self) -> int:
        return self.office.term

    @property
    def leader(self) -> Leader | None:
        return self.office.leader

    @property
    def lease_left(self) -> float:
        return 2.5 if self.office.leader else 0.0

    @property
    def members(self) -> tuple[Member, ...]:
        return self.members_seen

    async def wait_for_leader(self, timeout: float) -> Leader:
        with trio.move_on_after(timeout):
            while self.office.leader is None:
                await self.office.changed.wait()
            return self.office.leader
        raise HaError(Code.NO_LEADER, f"nobody was elected within {timeout:g} s", hint="try again")

    async def wait_for_change(self) -> None:
        await self.office.changed.wait()

    async def confirm(self, database_id: str | None = None) -> int:
        if self.role is not Role.LEADER:
            raise HaError(Code.NOT_LEADER, "this node does not lead")
        self.office.confirmations += 1
        await trio.lowlevel.checkpoint()
        return self.applied()


@dataclass
class LeaderNode:
    """``gate``: while it is set to an event, forwarded answers wait for it."""

    name: str
    node: TestNode
    forwarder: GrpcForwarder
    leadership: FakeLeadership
    port: int
    pg: PgServer
    http: httpx.AsyncClient
    token: str | None
    shutdown: trio.Event
    wires: trio.CancelScope
    secure: bool = False
    opened: list[AsyncConnection] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def session(self) -> Any:
        return self.node.session

    async def dbapi(self, **options: Any) -> AsyncConnection:
        connection = await connect_dbapi(
            f"ha://{self.address}", autocommit=True, token=self.token, **options
        )
        self.opened.append(connection)
        return connection

    async def post(self, document: Any, path: str = "/", **options: Any) -> httpx.Response:
        return await self.http.post(path, json=document, **options)

    def kill(self) -> None:
        """All its connections are cut, nothing is said."""
        self.wires.cancel()


@dataclass
class Leaders:
    office: Office
    nodes: list[LeaderNode]

    def __getitem__(self, index: int) -> LeaderNode:
        return self.nodes[index]

    def lead(self, index: int | None) -> None:
        self.office.give(None if index is None else self.nodes[index])

    async def settle(self) -> None:
        """Until all nodes have all of the log."""
        last = (await self.nodes[0].node.database.log.state()).subject_last
        for one in self.nodes:
            with trio.fail_after(20):
                await one.node.database.committer.wait_applied(last)


@asynccontextmanager
async def open_leaders(
    count: int = 2,
    *,
    token: str | None = None,
    tls: Tls | None = None,
    client_tls: ssl.SSLContext | None = None,
    insecure: bool = True,
    wait: float = 10.0,
    settle: float = 10.0,
    tokens: dict[str, str] | None = None,
    place: Place | None = None,
) -> AsyncIterator[Leaders]:
    """``count`` nodes n1, n2… on one log, the first of which leads. ``tokens``: what a node sends
    to the leader, where that is another than the one it asks for; ``place``: of databases that
    are made later."""
    office = Office()
    stream = MemoryStream(epoch="test")
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)  # when the nodes are closed, not before
        nodes: list[LeaderNode] = []
        for number in range(1, count + 1):
            name = f"n{number}"
            broker = await stack.enter_async_context(MemoryBroker(stream, node=name))
            node = await stack.enter_async_context(
                open_node(name, broker, options=OPTIONS, place=place)
            )
            leadership = FakeLeadership(office, name)
            leadership.applied = partial(_applied, node)
            options = ForwardOptions(
                name=name,
                process=f"process of {name}",
                token=(tokens or {}).get(name, token),
                insecure=insecure,
                tls=client_tls,
            )
            forwarder = GrpcForwarder(options, leadership)
            await nursery.start(forwarder.run)
            node.databases.cluster = Cluster(leadership, forwarder, wait=wait, settle=settle)
            shutdown = trio.Event()
            apps = create_apps(
                node.databases,
                authorize=Guard(token).check,
                shutdown=shutdown,
                process=options.process,
                prepares={"postgres": prepare_for},
            )
            operations = NodeOperations(node.databases)
            app = create_app(node.databases, operations=operations, token=token, mount=apps)
            scope = trio.CancelScope()
            address = await nursery.start(_serve, scope, app, tls, shutdown)
            pg_addresses = await nursery.start(
                partial(serve_pg, node.databases, port=0, config=PgConfig(limits=FAST))
            )
            headers = {"authorization": f"Bearer {token}"} if token else {}
            http = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=f"{'https' if tls else 'http'}://127.0.0.1:{address.port}",
                    headers=headers,
                    verify=client_tls or True,
                    timeout=30,
                )
            )
            pg = PgServer(pg_addresses[0][1], node)
            nodes.append(
                LeaderNode(
                    *(name, node, forwarder, leadership, address.port, pg, http, token),
                    *(shutdown, scope, tls is not None),
                )
            )
        leaders = Leaders(office, nodes)
        leaders.lead(0)
        try:
            yield leaders
        finally:
            for one in nodes:
                for connection in one.opened:
                    await connection.close()
                for session in one.node.sessions:
                    await session.aclose()


def _applied(node: TestNode) -> int:
    return node.database.committer.applied


async def _serve(
    scope: trio.CancelScope,
    app: Any,
    tls: Tls | None,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[Any],
) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_http,
                app,
                host="127.0.0.1",
                port=0,
                tls=tls,
                shutdown_trigger=shutdown.wait,
            )
            (address,) = await nursery.start(serve)
            task_status.started(address)


class Held:
    """What a node publishes, kept back until :meth:`release`."""

    def __init__(self, node: LeaderNode) -> None:
        self.reached = trio.Event()
        self._released = trio.Event()
        self._log: Any = node.node.database.log
        self._publish, self._publish_one = self._log.publish, self._log.publish_one
        self._waiting: list[Any] = []
        self._log.publish, self._log.publish_one = self._keep, self._keep_one

    def _keep(self, *arguments: Any) -> None:
        self._waiting.append(arguments)
        self.reached.set()

    async def _keep_one(self, *arguments: Any) -> Any:
        self.reached.set()
        await self._released.wait()
        return await self._publish_one(*arguments)

    def release(self) -> None:
        self._log.publish, self._log.publish_one = self._publish, self._publish_one
        self._released.set()
        for arguments in self._waiting:
            self._publish(*arguments)


class KeptBack(Protocol):
    """Something that a node is about to say, and that a test lets out, or not."""

    @property
    def reached(self) -> trio.Event: ...

    def release(self) -> None: ...


async def lose_the_answer(cluster: Leaders, held: KeptBack) -> None:
    """The leader, the first node, does what the second one asked, who does not hear of it."""
    await held.reached.wait()
    cut(cluster[1])
    held.release()


async def die_before(cluster: Leaders, held: KeptBack, successor: int | None) -> None:
    """The leader, the first node, dies before it can say what is ``held``; then another leads."""
    await held.reached.wait()
    cluster[0].kill()
    cluster.lead(successor)


def cut(node: LeaderNode) -> None:
    """All connections from ``node`` to leaders."""
    for connection in tuple(node.forwarder._all):
        connection.abort()
