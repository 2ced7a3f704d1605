"""Which nodes are there: each says so under a key ``node/NAME`` in a bucket beside the stream."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from ha.engine.leadership import Leader, Member, Role
from ha.log.api import KeyEntry, KeyValue, LogError

logger = logging.getLogger(__name__)
_PREFIX = "node/"
_PAUSE = 0.1
_TAIL = 3600.0
"""Seconds after which a node that is silent is not spoken of any more."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What a node said of itself, and when (trio's time) it was heard."""

    name: str
    address: str
    positions: Mapping[str, int]
    ready: bool
    at: float


class Presence:
    """``positions``, ``ready``: where this node's databases stand, and whether they are well;
    ``every``: seconds from one sign of life to the next; ``heard`` is told of all that happens
    under other keys of the bucket."""

    def __init__(
        self,
        keys: KeyValue,
        name: str,
        address: str,
        positions: Callable[[], Mapping[str, int]],
        *,
        ready: Callable[[], bool] = lambda: True,
        every: float = 2.0,
        heard: Callable[[KeyEntry], None] = lambda entry: None,
    ) -> None:
        self._keys = keys
        self._name = name
        self._address = address
        self._positions = positions
        self._ready = ready
        self._every = every
        self._heard = heard
        self._words: dict[str, _Word] = {}
        self._left = False

    def knows_ready(self) -> bool:
        """Has another node said lately that its databases are well?"""
        since = trio.current_time() - 2 * self._every
        return any(w.ready and w.at > since and w.name != self._name for w in self._words.values())

    def others(self, leader: Leader | None) -> tuple[Member, ...]:
        """The nodes but this one, by name."""
        now = trio.current_time()
        members = [
            Member(w.name, w.address, _role_of(w.name, leader), w.positions, now - w.at)
            for w in self._words.values()
            if w.name != self._name and now - w.at < _TAIL
        ]
        return tuple(sorted(members, key=lambda member: member.name))

    async def run(self) -> None:
        """Say that this node is there, and listen, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await self._tell()

    async def leave(self) -> None:
        """Say that it is there no more."""
        self._left = True
        try:
            await self._keys.delete(self._key)
        except LogError as error:
            logger.debug("the others are not told that this node leaves: %s", error)

    @property
    def _key(self) -> str:
        token = base64.urlsafe_b64encode(self._name.encode("utf-8", "surrogateescape"))
        return _PREFIX + token.decode()

    async def _tell(self) -> None:
        while not self._left:
            word = {
                "name": self._name,
                "address": self._address,
                "positions": dict(self._positions()),
                "ready": self._ready(),
            }
            try:
                await self._keys.put(self._key, json.dumps(word).encode())
            except LogError as error:
                logger.debug("the others are not told of this node: %s", error)
            await trio.sleep(self._every)

    async def _watch(self) -> None:
        while True:
            try:
                async with self._keys.watch() as watch:
                    while True:
                        for entry in await watch.receive():
                            if entry.key.startswith(_PREFIX):
                                self._meet(entry)
                            else:
                                self._heard(entry)
            except LogError as error:
                logger.debug("the other nodes cannot be watched: %s", error)
                await trio.sleep(_PAUSE)

    def _meet(self, entry: KeyEntry) -> None:
        if entry.value is None:
            self._words.pop(entry.key, None)
            return
        try:
            word = json.loads(entry.value)
            self._words[entry.key] = _Word(
                name=str(word["name"]),
                address=str(word["address"]),
                positions={str(k): int(v) for k, v in word["positions"].items()},
                ready=bool(word.get("ready", True)),
                at=trio.current_time(),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("what a node says of itself cannot be read: %s", error)


def _role_of(name: str, leader: Leader | None) -> Role:
    if leader is None:
        return Role.NONE
    return Role.LEADER if leader.name == name else Role.FOLLOWER
