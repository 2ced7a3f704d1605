"""A node, built from its configuration: one nursery, from the log up to the ports."""

from __future__ import annotations

import logging
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom

import trio

from ha.config import Config, Durability
from ha.core.dsn import Dsn
from ha.core.errors import Code, HaError
from ha.core.policy import parse_policy
from ha.engine.committer import CommitOptions
from ha.engine.database import DatabaseOptions
from ha.engine.databases import Databases
from ha.engine.elected import Elected
from ha.engine.forwarding import Cluster
from ha.engine.interceptors import load_interceptor
from ha.engine.joining import LOCAL_EPOCH
from ha.engine.operations import NodeOperations
from ha.engine.place import Place
from ha.engine.runtime import Runtime
from ha.engine.snapshots import SnapshotOptions
from ha.leading import (
    Lead,
    hand_over,
    introduce,
    keep_lease_near,
    make_forwarder,
    make_leadership,
    mirror_redirect,
    refuse_beside_old_leader,
)
from ha.log import server as nats
from ha.log.jetstream import JetStreamBroker, JetStreamOptions
from ha.log.local import LocalBroker, LocalStream
from ha.metrics import Metrics
from ha.store.file import Store, StoreOptions
from ha.wire.grpc.app import create_apps as create_grpc_apps
from ha.wire.grpc.session import Limits
from ha.wire.http.app import create_app
from ha.wire.http.auth import Guard
from ha.wire.http.health import Readiness
from ha.wire.http.server import Tls
from ha.wire.http.server import serve as serve_http
from ha.wire.postgres import config as postgres
from ha.wire.postgres.forwarded import prepare_for
from ha.wire.postgres.server import serve as serve_postgres

logger = logging.getLogger(__name__)
_DEFAULT = Config()


class Node:
    """A running node. Setting ``shutdown`` makes it finish what is in flight, and end."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self.process = secrets.token_hex(8)
        """Its name for this start, among all processes of the cluster."""
        self.shutdown = trio.Event()
        self.http_port = 0
        self.pg_port = 0


async def run(
    config: Config, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until ``shutdown`` is set. Raises HaError or OSError when it cannot start."""
    runtime = Runtime()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(_broker(config))
        lead = make_leadership(config, broker.keys, runtime)
        databases = Databases(
            broker,
            replace(_database_options(config), leadership=lead, mandate=lead),
            runtime,
            stream=config.replication_stream,
            place=_place(config),
            follow=not config.disable_db_sync,
        )
        stack.callback(databases.close)
        async with trio.open_nursery() as nursery:
            for dsn in config.databases:
                await databases.open(dsn.database_id, _store(config, dsn), nursery, _since_ns(dsn))
            await databases.open_all(nursery)
            nursery.start_soon(databases.follow)
            node = Node(databases)
            if lead is not None:
                await _lead(config, lead, node, broker, nursery)
            async with trio.open_nursery() as wires:
                await _serve(config, node, lead, wires)
                if lead is not None:
                    await nursery.start(lead.run)  # it can be reached now
                task_status.started(node)
                logger.info(
                    "serving",
                    extra={"node": config.name, "databases": ",".join(databases.database_ids())},
                )
                await node.shutdown.wait()
            await databases.stop()
            nursery.cancel_scope.cancel()


async def _lead(
    config: Config,
    lead: Lead,
    node: Node,
    broker: JetStreamBroker | LocalBroker,
    nursery: trio.Nursery,
) -> None:
    """All that leader mode needs, but for taking part in the election."""
    databases = node.databases
    introduce(lead, databases)
    await refuse_beside_old_leader(config, broker.keys, databases.database_ids())
    nursery.start_soon(mirror_redirect, lead, config, broker.keys, databases)
    if isinstance(broker, JetStreamBroker) and isinstance(lead, Elected):
        nursery.start_soon(keep_lease_near, lead, config, broker)
    nursery.start_soon(hand_over, lead, databases, node.shutdown)
    forwarder = make_forwarder(config, lead, node.process)
    await nursery.start(forwarder.run)
    databases.cluster = Cluster(lead, forwarder, wait=config.leader_wait)


async def _serve(config: Config, node: Node, lead: Lead | None, nursery: trio.Nursery) -> None:
    """Open the ports. Each server ends by itself once ``shutdown`` is set."""
    databases = node.databases
    metrics = Metrics(databases, config.name, lead)
    grpc = create_grpc_apps(
        databases,
        authorize=Guard(config.token).check,
        limits=Limits(request=config.max_body, result=config.max_result),
        shutdown=node.shutdown,
        process=node.process,
        prepares={"postgres": prepare_for},
    )
    app = create_app(
        databases,
        operations=NodeOperations(databases),
        token=config.token,
        max_body=config.max_body,
        health=lambda: Readiness(databases.not_ready()),
        observe=lambda seen: metrics.requests.observe("http", str(seen.status), seen.seconds),
        metrics=metrics.render,
        mount=grpc,
    )
    with _opening("HTTP", "--port", config.port):
        addresses = await nursery.start(
            lambda task_status: serve_http(
                app,
                port=config.port,
                tls=_http_tls(config),
                shutdown_trigger=node.shutdown.wait,
                task_status=task_status,
            )
        )
    node.http_port = addresses[0].port
    logger.info("http", extra={"port": node.http_port})
    if config.pg_port != 0:
        await _serve_postgres(config, node, nursery)


def _http_tls(config: Config) -> Tls | None:
    """Raises HaError for files that are no certificate and its key."""
    if config.http_cert is None or config.http_key is None:
        return None
    tls = Tls(config.http_cert, config.http_key, config.http_client_ca)
    try:
        tls.context()
    except (OSError, ValueError) as error:
        raise HaError(
            Code.BAD_REQUEST,
            f"--http-cert {tls.certificate}, --http-key {tls.key} or --http-client-ca"
            f" cannot be used: {error}",
            hint="they must be PEM files, the key without a password",
        ) from error
    return tls


async def _serve_postgres(config: Config, node: Node, nursery: trio.Nursery) -> None:
    tls = None
    if config.pg_cert is not None and config.pg_key is not None:
        tls = postgres.Tls.load(str(config.pg_cert), str(config.pg_key))
    options = postgres.Config(
        user=config.pg_user,
        password=config.pg_pass,
        auth=postgres.Auth(config.pg_auth.value),
        tls=tls,
        cleartext=config.pg_insecure,
    )
    scope = trio.CancelScope()

    async def serve(task_status: trio.TaskStatus[list[tuple[str, int]]]) -> None:
        with scope:
            await serve_postgres(
                node.databases,
                port=max(config.pg_port, 0),
                config=options,
                task_status=task_status,
            )

    async def end() -> None:
        await node.shutdown.wait()
        scope.cancel()

    with _opening("PostgreSQL clients", "--pg-port", config.pg_port):
        addresses = await nursery.start(serve)
    node.pg_port = addresses[0][1]
    nursery.start_soon(end)
    logger.info("postgresql", extra={"port": node.pg_port})


@contextmanager
def _opening(protocol: str, flag: str, port: int) -> Iterator[None]:
    """Say which port it is that cannot be had."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise HaError(
            Code.UNAVAILABLE, f"cannot serve {protocol} on port {port} ({flag}): {reason}"
        ) from error


@asynccontextmanager
async def _broker(config: Config) -> AsyncIterator[JetStreamBroker | LocalBroker]:
    """The log: on the server at --replication-url, on the embedded one, or in the node alone."""
    if config.durability is Durability.FULL and config.replication_url is not None:
        _require_synced_broker(config)
    async with AsyncExitStack() as stack:
        url = config.replication_url
        tls: ssl.SSLContext | None = None
        if config.nats_port != 0:
            server = await stack.enter_async_context(nats.NatsServer(_server_options(config)))
            logger.info("nats", extra={"port": server.port})
            if url is None:
                url, tls = server.url, server.tls
        if url is None:
            stream = LocalStream(
                epoch=LOCAL_EPOCH,
                name=config.replication_stream,
                path=_history_file(config),
                max_age=config.replication_max_age,
                now_ns=Runtime().now_ns,
            )
            stack.callback(stream.close)
            yield await stack.enter_async_context(LocalBroker(stream, node=config.name))
            return
        options = JetStreamOptions(
            urls=url,
            node=config.name,
            stream=config.replication_stream,
            max_age=config.replication_max_age,
            replicas=config.replicas,
            change_max_age=config.replication_max_age != _DEFAULT.replication_max_age,
            change_replicas=config.replicas != _DEFAULT.replicas,
            deliver=parse_policy(config.replication_policy).as_deliver_policy(),
            timeout=config.replication_timeout,
            tls=tls,
        )
        broker = JetStreamBroker(options, rng=SystemRandom())
        await stack.enter_async_context(broker)
        yield broker


def _history_file(config: Config) -> str | None:
    """Beside the first database; None if that is in memory."""
    first = config.databases[0]
    return None if first.memory else os.path.abspath(first.path) + ".history"


def _require_synced_broker(config: Config) -> None:
    """What another server does with its disk cannot be asked."""
    if not config.trust_broker_sync:
        raise HaError(
            Code.BAD_REQUEST,
            "--durability full: it is not known whether the server at --replication-url syncs each"
            " message (sync_interval: always)",
            hint="add --trust-broker-sync if it does",
        )


def _server_options(config: Config) -> nats.ServerOptions:
    store = config.nats_store_dir
    if store is None and not config.databases[0].memory:
        # A log that outlives its database's file is of use; the other way round it is not.
        store = Path(os.path.abspath(config.databases[0].path) + ".nats")
    return nats.ServerOptions(
        port=max(config.nats_port, 0),
        store_dir=store,
        user=config.nats_user,
        password=config.nats_pass,
        config=config.nats_config,
        logs=config.nats_logs,
        durability=nats.Durability(config.durability.value),
    )


def _database_options(config: Config) -> DatabaseOptions:
    return DatabaseOptions(
        commit=CommitOptions(
            node=config.name,
            publish_timeout=config.replication_timeout,
            transaction_hold=config.transaction_hold,
            identify=config.row_identify,
            ddl_sync=not config.disable_ddl_sync,
            asynchronous=config.async_replication,
        ),
        policy=parse_policy(config.replication_policy),
        interceptor=load_interceptor(config.interceptor) if config.interceptor else None,
        concurrent=config.concurrent_queries,
        standalone=config.nats_port == 0 and config.replication_url is None,
        snapshots=SnapshotOptions(
            interval=config.snapshot_interval, base=not config.disable_base_snapshot
        ),
        from_snapshot=config.from_latest_snapshot,
    )


def _place(config: Config) -> Place:
    folder = None
    if config.create_db_dir is not None:
        folder = os.path.abspath(config.create_db_dir)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise HaError(
                Code.IO_ERROR, f"--create-db-dir {folder} cannot be used: {error}"
            ) from error
    return Place(
        folder, config.memory, config.db_params, open_store=lambda dsn: _store(config, dsn)
    )


def _since_ns(dsn: Dsn) -> int | None:
    """When a dated copy was made."""
    if dsn.since is None:
        return None
    try:
        moment = datetime.strptime(dsn.since, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise HaError(
            Code.BAD_REQUEST, f"{dsn.source!r} begins with a date that does not exist"
        ) from error
    return int(moment.timestamp()) * 10**9


def _store(config: Config, dsn: Dsn) -> Store:
    full = config.durability is Durability.FULL
    synchronous = "OFF" if dsn.memory else "FULL" if full else "NORMAL"
    options = StoreOptions(
        synchronous=synchronous,
        pragmas=dsn.pragmas,
        extensions=config.extensions,
    )
    if dsn.memory:
        source = dsn.source if dsn.source and os.path.exists(dsn.source) else None
        return Store.open_memory(os.path.basename(dsn.path), options, source)
    if not dsn.create and not os.path.exists(dsn.path):
        raise HaError(Code.NOT_FOUND, f"no such file: {dsn.path}")
    return Store.open(dsn.path, replace(options, uri=dsn.uri_text() if dsn.uri else None))
