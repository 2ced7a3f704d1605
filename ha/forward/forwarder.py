"""Reaches leaders by gRPC: see :class:`ha.engine.forwarding.Forwarder`."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from dataclasses import dataclass

import trio

from ha.core.errors import Code, HaError
from ha.engine.forwarding import Carried, LeaderLost
from ha.engine.leadership import Leader, Leadership
from ha.forward import target as targets
from ha.forward.channel import Channel, connect
from ha.forward.remote import RemoteSession
from ha.forward.target import Target
from ha.wire.grpc import leader_codec as codec
from ha.wire.grpc.leader_pb import Call, ForwardRequest

logger = logging.getLogger(__name__)

FORWARDED_BY = "ha-forwarded-by"
_IDLE = 64
"""Idle connections that are kept."""
_GRACE = 1.0
"""Seconds that one who leads no more has to answer what it was asked as the leader."""


@dataclass(frozen=True, slots=True)
class ForwardOptions:
    """``name`` of this node; ``process``: new at each start; ``token``: what the leader asks for;
    ``insecure``: --grpc-insecure; times in seconds."""

    name: str
    process: str
    token: str | None = None
    insecure: bool = False
    tls: ssl.SSLContext | None = None
    connect_timeout: float = 5.0


class GrpcForwarder:
    """Keeps connections to the leader. Use it while :meth:`run` runs."""

    def __init__(self, options: ForwardOptions, leadership: Leadership) -> None:
        self._options = options
        self._leadership = leadership
        self._tls = options.tls or targets.client_context(insecure=options.insecure)
        self._idle: deque[Channel] = deque()
        self._all: set[Channel] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let connections to those go who lead no more, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                leader = self._leadership.leader
                while True:
                    await self._leadership.wait_for_change()
                    now = self._leadership.leader
                    if now is not None and (leader is None or now.address != leader.address):
                        old = [c for c in self._all if c.target != self._target(now)]
                        nursery.start_soon(self._let_go, old)
                    leader = now or leader
        finally:
            self._nursery = None
            for channel in tuple(self._all):
                channel.abort()
            self._all.clear()
            self._idle.clear()

    async def _let_go(self, channels: list[Channel]) -> None:
        for channel in channels:
            if channel in self._idle:
                self._idle.remove(channel)
                self._forget(channel)
        await trio.sleep(_GRACE)
        for channel in channels:
            if not channel.broken:
                self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        channel.abort()
        self._all.discard(channel)

    # --- what sessions ask for -------------------------------------------------------

    def url_of(self, leader: Leader) -> str:
        return self._target(leader).url

    async def open(self, leader: Leader, carried: Carried) -> RemoteSession:
        channel = await self._take(leader)
        assert self._nursery is not None
        return RemoteSession(leader, channel, carried, self._give_back, self._nursery)

    async def confirm(self, leader: Leader, database_id: str, request_id: str = "") -> int:
        channel = await self._take(leader)
        request = ForwardRequest(call=Call.CONFIRM, database_id=database_id, request_id=request_id)
        try:
            response = await channel.call(request)
            if response.error is not None:
                raise codec.decode_error(response.error)
            return response.position
        finally:
            self._give_back(channel)

    # --- connections -----------------------------------------------------------------

    def _target(self, leader: Leader) -> Target:
        return targets.parse_target(leader.address, insecure=self._options.insecure)

    async def _take(self, leader: Leader) -> Channel:
        target = self._target(leader)
        if target.secure is False and not self._options.insecure:
            raise HaError(
                Code.REFUSED,
                f"the leader's address {leader.address} is without TLS",
                hint="let it give an https URL, or start this node with --grpc-insecure",
            )
        if self._nursery is None:
            raise LeaderLost("this node is stopping", not_run=True)
        while self._idle:
            channel = self._idle.pop()
            if channel.target == target and await channel.is_alive():
                return channel
            self._forget(channel)
        options = self._options
        metadata = {FORWARDED_BY: options.process, "ha-forwarder": options.name}
        if options.token:
            metadata["authorization"] = f"Bearer {options.token}"
        channel = await connect(target, self._tls, metadata, options.connect_timeout)
        self._all.add(channel)
        return channel

    def _give_back(self, channel: Channel) -> None:
        if channel.broken or self._nursery is None or len(self._idle) >= _IDLE:
            self._forget(channel)
        else:
            self._idle.append(channel)
