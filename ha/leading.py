"""Leader mode of a node, built from its configuration."""

from __future__ import annotations

import base64
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import TypeAlias

import trio

from ha.config import Config
from ha.core.errors import Code, HaError
from ha.core.fold import NO_TERM, Term
from ha.core.naming import normalise
from ha.engine.appointed import Appointed
from ha.engine.databases import Databases
from ha.engine.elected import Elected, ElectionOptions, bucket_of
from ha.engine.leadership import Leadership, Role
from ha.engine.runtime import Runtime
from ha.forward.forwarder import ForwardOptions, GrpcForwarder
from ha.forward.target import client_context, parse_target
from ha.log.api import KeyValue, LogError
from ha.log.jetstream import JetStreamBroker

logger = logging.getLogger(__name__)

Lead: TypeAlias = Elected | Appointed
Keys: TypeAlias = Callable[[str, float], KeyValue]
"""A bucket by its name, and the seconds after which what it holds is forgotten."""

REDIRECT_KEY = "redirect"
REDIRECT_AGE = 60.0
_NEAR_EVERY = 5.0
_HANDOVER = 1.0
"""Seconds that a leader which stops gives to the writes under way."""


def make_leadership(config: Config, keys: Keys, runtime: Runtime) -> Lead | None:
    """None where every node takes writes."""
    bucket = keys(bucket_of(config.replication_stream), 0.0)
    address = config.leader_addr or ""
    if config.leader_static is not None:
        return Appointed(
            bucket,
            config.name,
            address,
            config.leader_static,
            leads=_same(config, address, config.leader_static),
        )
    if config.leader_addr is None:
        return None
    options = ElectionOptions(
        config.name, address, lease=config.leader_lease, renew=config.leader_lease / 4
    )
    return Elected(bucket, options, runtime.random)


def _same(config: Config, one: str, other: str) -> bool:
    if not one:
        return False
    first, second = (parse_target(a, insecure=config.grpc_insecure) for a in (one, other))
    return first.address == second.address


def make_forwarder(config: Config, leadership: Leadership, process: str) -> GrpcForwarder:
    """``process``: new at each start. Raises HaError for files and addresses that are none."""
    for address in (config.leader_addr, config.leader_static):
        if address is not None:
            target = parse_target(address, insecure=config.grpc_insecure)
            if not target.secure and not config.grpc_insecure:
                raise HaError(
                    Code.BAD_REQUEST,
                    f"{address} is without TLS",
                    hint=f"write https://{target.address}, or add --grpc-insecure",
                )
    options = ForwardOptions(
        name=config.name,
        process=process,
        token=config.token,
        insecure=config.grpc_insecure,
        tls=_client_context(config),
    )
    return GrpcForwarder(options, leadership)


def _client_context(config: Config) -> ssl.SSLContext:
    """This node shows the certificate with which it serves, in case the leader wants one."""
    try:
        return client_context(
            insecure=config.grpc_insecure,
            ca=config.leader_ca,
            certificate=config.http_cert,
            key=config.http_key,
        )
    except (OSError, ValueError) as error:
        raise HaError(
            Code.BAD_REQUEST,
            f"--leader-ca {config.leader_ca}, --http-cert or --http-key cannot be used: {error}",
            hint="they must be PEM files, the key without a password",
        ) from error


def introduce(lead: Lead, databases: Databases) -> None:
    """Let it know the databases for which it stands."""

    def positions() -> Mapping[str, int]:
        return {database.id: database.committer.applied for database in databases.all()}

    def highest() -> Term:
        terms = [database.fold.term for database in databases.all()]
        return max(terms, key=lambda term: term.number, default=NO_TERM)

    lead.ready = lambda: databases.not_ready() is None
    lead.positions = positions
    lead.find = lambda database_id: databases.get(database_id).committer
    if isinstance(lead, Appointed):
        lead.highest = highest


async def hand_over(lead: Lead, databases: Databases, shutdown: trio.Event) -> None:
    """When the node is to end: finish what is under way, and let another one lead at once."""
    await shutdown.wait()
    with trio.move_on_after(_HANDOVER):
        await databases.stop()
    await lead.resign()


async def refuse_beside_old_leader(config: Config, keys: Keys, database_ids: list[str]) -> None:
    """Nodes of the existing system elect by other means: two elections would make two leaders.

    Their leader shows in a bucket of each database, until it is a minute old. Raises HaError.
    """
    for database_id in database_ids:
        try:
            redirect = await keys(redirect_bucket(config, database_id), REDIRECT_AGE).get(
                REDIRECT_KEY
            )
            if redirect is None or redirect.value is None:
                continue
            address = redirect.value.decode(errors="replace")
            if address in (config.leader_static, config.leader_addr):
                continue  # one of ours: without an election there is no key of the leader
            ours = await keys(bucket_of(config.replication_stream), 0.0).get(
                _mirrored(redirect.value)
            )
        except LogError as error:
            logger.warning("it is not known whether nodes of another kind elect: %s", error)
            return
        if ours is None:
            raise HaError(
                Code.ALREADY_EXISTS,
                f"the database {database_id!r} has a leader at {address} that nodes of the"
                " existing system elected: they and this node cannot share leader mode",
                hint="stop them and start again after a minute, or use another"
                " --replication-stream",
            )


async def keep_lease_near(lead: Lead, config: Config, broker: JetStreamBroker) -> None:
    """While this node leads, let NATS lead the lease where it leads the log, until cancelled.

    A server that dies and leads only the lease would cost an election of NATS all the same.
    """
    while True:
        if lead.role is Role.LEADER:
            try:
                await broker.keep_near(bucket_of(config.replication_stream))
            except LogError as error:
                logger.debug("the lease is not moved: %s", error)
        with trio.move_on_after(_NEAR_EVERY):
            await lead.wait_for_change()


async def mirror_redirect(lead: Lead, config: Config, keys: Keys, databases: Databases) -> None:
    """While this node leads, say so where nodes of the existing system look, until cancelled."""
    own = keys(bucket_of(config.replication_stream), 0.0)
    while True:
        leader = lead.leader
        if lead.role is Role.LEADER and leader is not None:
            address = leader.address.encode()
            for database_id in databases.database_ids():
                bucket = keys(redirect_bucket(config, database_id), REDIRECT_AGE)
                try:
                    await own.put(_mirrored(address), b"")
                    await bucket.put(REDIRECT_KEY, address)
                except LogError as error:
                    logger.debug("the redirect of %s is not mirrored: %s", database_id, error)
        with trio.move_on_after(REDIRECT_AGE / 3):
            await lead.wait_for_change()


def _mirrored(address: bytes) -> str:
    """The key that tells that a redirect to this address is of our kind."""
    return f"redirect/{base64.urlsafe_b64encode(address).decode()}"


def redirect_bucket(config: Config, database_id: str) -> str:
    """``STREAM_NORM(id)``."""
    return f"{config.replication_stream}_{normalise(database_id)}"
