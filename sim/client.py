"""A client: one conversation after the other with the nodes, everything said written down."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import trio

from ha.core.errors import HaError
from ha.engine.api import Statement, Status
from ha.engine.session import Session
from sim.cluster import Broken, Cluster, Gone, Process
from sim.history import GONE, OK, Call
from sim.workloads import Watch, Workload
from sim.workloads.base import Sql
from sim.world import actor

T = TypeVar("T")
RUSH = 0.5
"""Seconds between moments at which clients act together, on all nodes."""
HANG = 300.0
"""Seconds after which a call that has not returned is called stuck."""

_NO_LEADER_HERE = {"not_leader", "no_leader", "unavailable", "outcome_unknown", "not_written"}
"""Answers after which a client looks for the leader elsewhere."""


class Client:
    """Runs the steps of workloads. ``home``: the one node that it may write on, if any."""

    def __init__(
        self, cluster: Cluster, name: str, workloads: Sequence[Workload], home: str | None
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.chance: random.Random = cluster.world.chance(f"client {name}")
        self._workloads = workloads
        self._home = home
        self._process: Process | None = None
        self._session: Session | None = None
        self._session_number = 0
        self._era = 0
        self._left = 0
        self._last_txseq = 0
        self.stopped = False
        self._focus: float | None = None
        self.workload: Workload = workloads[0]
        self.step = 0
        self.written: dict[str, list[int]] = {}
        """Sequences of its writes, for workloads that come back to them."""
        self.sequence = 0
        """Where its last write stands; 0 if it did not write."""

    def pick(self, among: Sequence[T]) -> T:
        """One of these; in a rush one of the same two for everybody."""
        if self._focus is None:
            return self.chance.choice(among)
        first = int(self._focus * len(among))
        return among[(first + self.chance.randrange(2)) % len(among)]

    def token(self) -> str:
        return self.cluster.history.token()

    async def run(
        self, steps: Sequence[int], pace: float, more: Callable[[], bool] = lambda: False
    ) -> None:
        """``steps``: the numbers of the operations to do; of the others it leaves the time.
        ``more``: whether to go on after the last of them."""
        actor.set(self.name)
        weights = [w.weight for w in self._workloads]
        mute = self.cluster.plan.mute
        wanted = frozenset(steps)
        last = max(steps, default=-1)
        self.cluster.active += 1
        try:
            for self.step in count():
                if self.stopped or (self.step > last and not more()):
                    break
                # Each operation has a stream of chance of its own: it stays as it is when those
                # before it are left out.
                self.chance.seed(f"{self.cluster.plan.seed}/client {self.name}/{self.step}")
                together = await self._pause(pace)
                chance = self.chance if together is None else together
                self.workload = chance.choices(self._workloads, weights)[0]
                if self.step <= last and self.step not in wanted:
                    continue
                if self.workload.name in mute:
                    continue
                while not await self._connect() and not self.stopped:
                    if not self._reachable():
                        await self.cluster.news.wait()
                await self.workload.step(self)
                self._left -= 1
        finally:
            self.cluster.active -= 1
            await self._hang_up()

    async def _pause(self, pace: float) -> random.Random | None:
        """Until the next operation. Now and then until a moment at which others act as well:
        then the chance is returned by which all choose the same workload."""
        self._focus = None
        if self.chance.random() < 0.35:
            moment = (trio.current_time() // RUSH + 1) * RUSH
            await trio.sleep_until(moment)
            name = f"{self.cluster.plan.seed}/rush {moment}"
            self._focus = random.Random(f"{name}/focus").random()
            return random.Random(name)
        await trio.sleep(self.chance.expovariate(1 / pace) if pace else 0)
        return None

    # --- connections -----------------------------------------------------------------

    def _reachable(self) -> list[Process]:
        serving = self.cluster.serving()
        return [p for p in serving if self._home in (None, p.node.name)]

    async def _connect(self) -> bool:
        """A session on a node that serves; keeps the present one for a while."""
        process = self._process
        if process is not None and process.serving and self._left > 0:
            return True
        await self._hang_up()
        serving = self._reachable()
        leading = self._home is None and self.cluster.plan.lease
        if leading and self.chance.random() < 0.8:
            serving = [p for p in serving if p.leads] or serving
        if not serving:
            return False
        self._process = self.chance.choice(serving)
        self._left = self.chance.randint(1, 30)
        assert self._process.databases is not None
        self._session = self._process.databases.session(protocol="sim")
        self.cluster.sessions += 1
        self._session_number = self.cluster.sessions
        self._era = self._process.era
        if self._last_txseq and self.chance.random() < 0.3:
            await self._follow(self._process, self._session, self._last_txseq)
        return self._session is not None and self._process.serving

    async def _follow(self, process: Process, session: Session, txseq: int) -> None:
        """Present the sequence of the last write made elsewhere, as ``X-Txseq`` does."""
        call = self._begin("wait for", low=0)
        call.error_sequence = txseq
        if await self._guarded(call, process, lambda: session.wait_for(txseq)):
            call.sequence = txseq
            self._floor = txseq

    async def _hang_up(self) -> None:
        session, self._session, self._process = self._session, None, None
        self._floor = 0
        if session is not None:
            with trio.CancelScope(shield=True):
                await session.aclose()

    _floor = 0

    # --- calls -----------------------------------------------------------------------

    def _begin(self, what: str, token: str = "", *, low: int | None = None) -> Call:
        history = self.cluster.history
        process, session = self._process, self._session
        assert process is not None
        assert session is not None
        if low is None:
            low = max(process.database.committer.applied, session.txseq, self._floor)
        call = Call(
            number=len(history.calls),
            client=self.name,
            process=process.label,
            session=self._session_number,
            workload=self.workload.name,
            what=what,
            token=token,
            begun=trio.current_time(),
            low=low,
            step=self.step,
            applied=process.database.committer.applied,
            era=self._era,
            tentative=self._tentative,
            ready=process.databases is not None and process.databases.not_ready() is None,
        )
        history.calls.append(call)
        self.cluster.open_calls[call.number] = call
        return call

    async def _guarded(
        self, call: Call, process: Process, work: Callable[[], Awaitable[Any]]
    ) -> bool:
        """Run a call and write down how it ended. True if it succeeded."""
        try:
            await process.call(work)
        except Gone:
            call.outcome = GONE
        except HaError as error:
            call.outcome = error.code.value
            call.message = error.message
            call.error_sequence = error.sequence or 0
        else:
            call.outcome = OK
        self._ended(call)
        if call.outcome == "internal":
            raise Broken(f"an error that has no name reached a client: {call}")
        if call.outcome == GONE or (self.cluster.plan.lease and call.outcome in _NO_LEADER_HERE):
            self._left = 0
        return call.outcome == OK

    def _ended(self, call: Call) -> None:
        self.cluster.open_calls.pop(call.number, None)
        call.ended = trio.current_time()
        call.high = self.cluster.server.last
        self.cluster.world.trace.event(
            self.name, call.outcome, f"{call.process} {call.what} {call.token} {call.rows!r}"
        )

    async def write(
        self,
        what: str,
        statements: Sequence[Sql],
        token: str = "",
        *,
        visible: bool = True,
        keys: tuple[object, ...] | None = None,
    ) -> bool:
        """One transaction. ``visible``: its token must be in the log if it changed a row."""
        process, session = self._process, self._session
        if process is None or session is None or not process.serving:
            return False
        call = self._begin(what, token)
        call.keys = keys
        self.sequence = 0
        roll = self.chance.random()
        affected: list[int] = []
        abandon = False
        before = session.txseq

        async def alone() -> None:
            sql, params = statements[0]
            affected.append((await session.execute(sql, list(params))).rows_affected)

        async def together() -> None:
            results = await session.transaction([Statement(s, list(p)) for s, p in statements])
            affected.extend(r.rows_affected for r in results)

        async def interactive() -> None:
            await self._interactive(session, statements, affected, abandon)

        work: Callable[[], Awaitable[None]]
        if roll < 0.12:
            work = interactive
            abandon = self.chance.random() < 0.2
        else:
            work = alone if len(statements) == 1 else together
        if roll > 0.97:
            done = await self._guarded_with_cancel(call, process, session, work)
        elif roll > 0.95:
            done = await self._walk_away(call, process, work)
        else:
            done = await self._guarded(call, process, work)
        self.cluster.world.trace.add(repr(affected))
        if abandon and done:
            call.outcome = "abandoned"
        elif done:
            call.expected = visible and sum(affected) > 0
            call.sequence = self._sequence_of(session, before, affected)
            self._last_txseq = max(self._last_txseq, call.sequence)
            self.sequence = call.sequence
        return done

    async def undo(self, command: str, sequence: int) -> None:
        """Take back what stands at ``sequence``, or be told why that cannot be."""
        process, session = self._process, self._session
        if process is None or session is None or not process.serving:
            return
        call = self._begin(f"{command} {sequence}")
        call.undone = sequence
        before = session.txseq
        if await self._guarded(call, process, lambda: session.execute(f"{command} {sequence}")):
            call.sequence = session.txseq if session.txseq != before else 0
            self._last_txseq = max(self._last_txseq, call.sequence)

    def _sequence_of(self, session: Session, before: int, affected: list[int]) -> int:
        """Where a transaction stands; 0 if it wrote nothing."""
        # After the broker has lost messages, the next ones get the same numbers.
        again = self.cluster.server.losses and sum(affected) and not self._tentative
        return session.txseq if session.txseq != before or again else 0

    @property
    def _tentative(self) -> bool:
        process = self._process
        return process is not None and process.node.name in self.cluster.plan.asynchronous

    async def _interactive(
        self, session: Session, statements: Sequence[Sql], affected: list[int], abandon: bool
    ) -> None:
        chance = self.chance
        try:
            await session.execute(chance.choice(("BEGIN", "BEGIN", "BEGIN IMMEDIATE")))
            for sql, params in statements:
                if chance.random() < 0.3:
                    await trio.sleep(chance.expovariate(1 / 0.3))
                if chance.random() < 0.1:
                    await session.execute("SAVEPOINT s")
                    await session.execute(sql, list(params))
                    await session.execute("ROLLBACK TO s")
                    await session.execute("RELEASE s")
                affected.append((await session.execute(sql, list(params))).rows_affected)
            if chance.random() < 0.1:
                await trio.sleep(chance.expovariate(1 / 4))
            await session.execute("ROLLBACK" if abandon else "COMMIT")
        except HaError:
            if session.status is not Status.IDLE:
                await session.execute("ROLLBACK")
            raise

    async def read_and_write(
        self,
        what: str,
        question: Sql,
        decide: Callable[[list[Any]], Sequence[Sql]],
        token: str,
        *,
        keys: tuple[object, ...] | None = None,
    ) -> None:
        """Read in a transaction, and write what follows from it. ``decide`` raises LookupError
        when rows are missing that were there from the beginning."""
        process, session = self._process, self._session
        if process is None or session is None or not process.serving:
            return
        call = self._begin(what, token)
        call.keys = keys
        before = session.txseq
        affected: list[int] = []

        begin = self.chance.choice(("BEGIN", "BEGIN IMMEDIATE"))

        async def work() -> None:
            try:
                await session.execute(begin)
                rows = (await session.execute(question[0], list(question[1]))).rows
                if self.chance.random() < 0.3:
                    await trio.sleep(self.chance.expovariate(1 / 0.2))
                try:
                    changes = decide(rows)
                except LookupError as error:
                    # A node that has just begun with an empty file shows what it has so far, but
                    # who may write has read all that there is.
                    if begin == "BEGIN IMMEDIATE":
                        raise Broken(f"a writer was shown {rows!r}: {call}") from error
                    changes = []
                for sql, params in changes:
                    affected.append((await session.execute(sql, list(params))).rows_affected)
                await session.execute("COMMIT")
            except HaError:
                if session.status is not Status.IDLE:
                    await session.execute("ROLLBACK")
                raise

        if await self._guarded(call, process, work):
            call.expected = sum(affected) > 0
            call.sequence = self._sequence_of(session, before, affected)
            self._last_txseq = max(self._last_txseq, call.sequence)

    async def _walk_away(
        self, call: Call, process: Process, work: Callable[[], Awaitable[None]]
    ) -> bool:
        """The client closes its connection while it waits."""
        with trio.move_on_after(self.chance.expovariate(1 / 0.01)) as scope:
            return await self._guarded(call, process, work)
        if scope.cancelled_caught:
            call.outcome = GONE
            self._ended(call)
            self._left = 0
            await self._hang_up()
        return False

    async def _guarded_with_cancel(
        self,
        call: Call,
        process: Process,
        session: Session,
        work: Callable[[], Awaitable[None]],
    ) -> bool:
        """Another task cancels the statement while it runs, or just after."""
        done = False
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await trio.sleep(self.chance.expovariate(1 / 0.01))
                session.cancel()

            nursery.start_soon(cancel)
            done = await self._guarded(call, process, work)
            nursery.cancel_scope.cancel()
        return done

    async def read(self, watch: Watch, keys: Sequence[object] | None = None) -> None:
        """Ask a question whose answer the checkers know."""
        process, session = self._process, self._session
        if process is None or session is None or not process.serving:
            return
        sql = watch.whole() if keys is None else watch.some(keys)
        params: list[Any] = list(keys or ())
        call = self._begin(f"read {watch.name}")
        call.watch = watch.name
        call.keys = None if keys is None else tuple(keys)
        rows: list[tuple[object, ...]] = []

        async def plain() -> None:
            rows.extend((await session.execute(sql, params)).rows)

        async def streamed() -> None:
            async with session.query(sql, params) as found:
                while more := await found.fetch(3):
                    rows.extend(more)
                    if self.chance.random() < 0.2:
                        await trio.sleep(self.chance.expovariate(1 / 0.01))

        async def twice() -> None:
            await session.execute("BEGIN")
            try:
                first = (await session.execute(sql, params)).rows
                await trio.sleep(self.chance.expovariate(1 / 0.05))
                rows.extend((await session.execute(sql, params)).rows)
            finally:
                if session.status is not Status.IDLE:
                    await session.execute("ROLLBACK")
            if first != rows:
                raise Broken(f"a transaction read {first!r}, then {rows!r}: {call}")

        async def latest() -> None:
            """The leader makes certain that nobody else leads, and reads then."""
            assert process.databases is not None
            leadership = process.databases.leadership
            assert leadership is not None
            await process.database.wait_for(await leadership.confirm())
            await plain()

        roll = self.chance.random()
        work = plain if roll < 0.8 else streamed if roll < 0.9 else twice
        if process.leads and roll < 0.7:
            work = latest
            call.linear = True
        await self._guarded(call, process, work)
        if call.outcome == OK:
            call.rows = tuple(tuple(r) for r in rows)
            self.cluster.world.trace.add(repr(call.rows))
