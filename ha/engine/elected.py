"""A leader that the nodes elect: the lease in a bucket beside the stream, and who is there.

The rules stand in :mod:`ha.core.election`; here is the traffic that they cause. The bucket
``STREAM-leader`` holds it under the key ``leader``, beside what :mod:`ha.engine.presence` keeps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from random import Random

import trio

from ha.core.election import CLOCK_BOUND, Effect, Election, Read, Record, Write
from ha.core.errors import Code, HaError
from ha.engine.leadership import Leader, Member, Role
from ha.engine.presence import Presence
from ha.engine.standing import Opened, Standing
from ha.log.api import KeyEntry, KeyValue, LogError, NotSent, WrongRevision

logger = logging.getLogger(__name__)

LEADER_KEY = "leader"
_PAUSE = 0.1
"""Seconds before a request that failed is made again."""


def bucket_of(stream: str) -> str:
    """The bucket of a stream's election; ``STREAM_…`` would be one of a database."""
    return f"{stream}-leader"


@dataclass(frozen=True, slots=True)
class ElectionOptions:
    """``address``: of this node's HTTP and gRPC port, for others; ``lease``: seconds after which
    a leader that is not heard of is replaced, renewed every ``renew`` seconds."""

    name: str
    address: str
    lease: float = 2.0
    renew: float = 0.5
    clock_bound: float = CLOCK_BOUND


class Elected(Standing):
    """Implements Leadership and Mandate. Run :meth:`run` in a nursery."""

    def __init__(self, keys: KeyValue, options: ElectionOptions, random: Random) -> None:
        super().__init__(options.name, options.address)
        self._keys = keys
        self._options = options
        self._random = random
        self._election = Election(
            f"{options.name}-{random.getrandbits(64):016x}",
            options.name,
            options.address,
            lease=options.lease,
            renew=options.renew,
            clock_bound=options.clock_bound,
        )
        self._timeout = max(options.lease / 4, 0.1)
        self._wake = trio.Event()
        self._well_at = float("-inf")
        self._presence = Presence(
            keys,
            options.name,
            options.address,
            lambda: self.positions(),
            ready=lambda: self.ready(),
            every=options.lease,
            heard=self._heard,
        )

    # --- Leadership ------------------------------------------------------------------

    @property
    def role(self) -> Role:
        now = trio.current_time()
        if self._election.holds(now):
            return Role.LEADER
        return Role.NONE if self._election.leader(now) is None else Role.FOLLOWER

    @property
    def term(self) -> int:
        return self._election.term

    @property
    def leader(self) -> Leader | None:
        record = self._election.leader(trio.current_time())
        return None if record is None else Leader(record.name, record.address, record.term)

    @property
    def lease_left(self) -> float:
        now = trio.current_time()
        election = self._election
        if election.holds(now):
            return election.lease_until - now
        return max(0.0, election.free_at - now) if election.leader(now) is not None else 0.0

    @property
    def campaigns(self) -> int:
        """How often this node tried to become the leader."""
        return self._election.campaigns

    @property
    def members(self) -> tuple[Member, ...]:
        return (self._self_as_member(), *self._presence.others(self.leader))

    # --- Mandate ---------------------------------------------------------------------

    @property
    def held(self) -> int | None:
        record = self._election.record
        if record is None or not self._election.holds(trio.current_time()):
            return None
        return record.term

    def learned(self, term: int, *, lost: bool) -> None:
        held = self.held
        if term > self._election.term or (held is not None and held <= term):
            self._election.learned(term)
            self._wake.set()

    # --- confirming ------------------------------------------------------------------

    async def _confirm(self, database: Opened) -> None:
        election = self._election
        wanted = election.beat + 1
        election.hurry()
        self._wake.set()
        with trio.move_on_after(self._options.lease):
            while election.confirmed < wanted:
                if not election.holds(trio.current_time()):
                    raise self.refusal()
                await self._noted.wait()
            return
        raise HaError(
            Code.UNAVAILABLE,
            "the lease of the leader could not be confirmed in time",
            hint="try again",
        )

    # --- life ------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._presence.run)
            task_status.started()
            await self._drive(nursery)

    async def resign(self, timeout: float = 1.0) -> None:
        """Lead no more, and let another one do so at once. Returns when that is said."""
        held = self._election.holds(trio.current_time())
        self._election.resign()
        self._wake.set()
        with trio.move_on_after(timeout):
            record = self._election.record
            while held and record is not None and record.holder == self._election.holder:
                await self._noted.wait()
                record = self._election.record
            await self._presence.leave()

    async def _drive(self, nursery: trio.Nursery) -> None:
        election = self._election
        while True:
            now = trio.current_time()
            self._consider(now)
            effect = election.tick(now)
            self._note()
            if effect is not None:
                nursery.start_soon(self._perform, effect)
                continue
            with trio.move_on_at(election.wake_at(now)):
                await self._wake.wait()
            self._wake = trio.Event()

    def _consider(self, now: float) -> None:
        """A node whose databases are not well lets others lead, if there are better ones."""
        election = self._election
        if self.ready():
            self._well_at = now
            election.reluctance = 0.0
            return
        election.reluctance = self._options.lease
        ill_for = now - self._well_at
        if election.holds(now) and ill_for > self._options.lease and self._presence.knows_ready():
            logger.warning("stepping down: a database of this node cannot follow its log")
            election.step_down()

    async def _perform(self, effect: Effect) -> None:
        try:
            if isinstance(effect, Read):
                await self._read()
            else:
                await self._write(effect)
        finally:
            self._wake.set()

    async def _read(self) -> None:
        entry: KeyEntry | None = None
        answered = False
        with trio.move_on_after(self._timeout):
            try:
                entry = await self._keys.get(LEADER_KEY)
                answered = True
            except LogError as error:
                logger.debug("the lease cannot be read: %s", error)
                await self._pause()
        now = trio.current_time()
        if not answered:
            self._election.unread(now)
        elif entry is None:
            self._election.read(now, None, 0)
        else:
            self._election.read(now, _record_of(entry), entry.revision)

    async def _write(self, effect: Write) -> None:
        beat = effect.record.beat
        election = self._election
        with trio.move_on_after(self._timeout):
            try:
                revision = await self._keys.update(
                    LEADER_KEY, effect.record.to_bytes(), effect.revision
                )
            except WrongRevision as error:
                logger.debug("the lease was not taken: %s", error)
                election.refused(trio.current_time(), beat)
                return
            except NotSent as error:
                logger.debug("the lease cannot be asked for: %s", error)
                await self._pause()
            except LogError as error:
                logger.debug("the lease: %s", error)
            else:
                election.wrote(trio.current_time(), beat, revision)
                return
        election.unclear(trio.current_time(), beat)

    async def _pause(self) -> None:
        await trio.sleep(_PAUSE * self._random.uniform(0.5, 1.5))

    def _heard(self, entry: KeyEntry) -> None:
        if entry.key == LEADER_KEY:
            self._election.heard(trio.current_time(), _record_of(entry), entry.revision)
            self._wake.set()


def _record_of(entry: KeyEntry) -> Record | None:
    """None where it says nothing that can be read: as if it were gone."""
    if entry.value is None:
        return None
    try:
        return Record.from_bytes(entry.value)
    except ValueError as error:
        logger.warning("the lease cannot be read: %s", error)
        return None
