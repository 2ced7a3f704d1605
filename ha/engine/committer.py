"""The commit path of one database: the file is always a fold of its log.

One task owns the order. It executes a batch of waiting transactions inside one open SQLite
transaction, publishes their messages together, and watches the database's own subscription.
If the next messages of the log are exactly this batch, it commits, the new position inside,
and answers the clients. If another node's message came in between, or a publish failed, it
rolls back and applies from the log, its own messages like anybody's. So the file never holds
anything but ``fold(n)``, and a crash at any point needs no special case.

What a publish did is always settled before a client is told ``not_written``: by the log
itself, by the broker's refusal, or by a void message that takes the same message id and
number, of which only the first in the log counts.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from math import inf

import apsw
import trio

from ha.core.changeset import ChangeSet, FormatError, Identify, Kind, Operation, Origin, decode
from ha.core.distribution import Distribution
from ha.core.errors import Code, HaError
from ha.core.fold import Verdict
from ha.core.parts import encode_all
from ha.engine.batch import run_batch
from ha.engine.identity import Mismatch, check_identity
from ha.engine.mandate import Mandate, Opening, Rule
from ha.engine.relay import Relay
from ha.engine.runtime import Runtime
from ha.engine.turn import Turn
from ha.engine.unit import Stage, Unit
from ha.log.api import (
    Ack,
    Entry,
    Log,
    LogError,
    LogReset,
    LogState,
    NotSent,
    Outgoing,
    Refused,
    ResetReason,
    WrongLast,
)
from ha.store import control
from ha.store.connection import INLINE_TICKS, Connection, synced
from ha.store.executor import Executor
from ha.store.fold import Fold, Folded, Gap, Halt, Rebased
from ha.store.outbox import Outbox, messages_of
from ha.store.sqlite_errors import from_sqlite

logger = logging.getLogger(__name__)

INLINE_BYTES = 64 * 1024
"""Bytes of messages that are applied on the event loop; more go to a thread."""
WINDOW_BYTES = 16 * 1024 * 1024
"""Bytes of a big transaction that may be under way at once."""
APPLY_ENTRIES = 512
APPLY_BYTES = 4 * 1024 * 1024
"""Bounds of one SQLite transaction of foreign messages, so that catching up shows progress."""


Recover = Callable[[int | None, bool], Awaitable[int]]
"""Is given the sequence up to which messages are missing, if that is known, and whether only a
snapshot can bring them; returns the position
in the log to go on from. Raises Mismatch if there is none."""
Tap = Callable[[Entry, bool], None]
"""Takes an entry and whether it had an effect."""


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """Bounds of the commit path. Times in seconds."""

    node: str
    publish_timeout: float = 15.0
    transaction_hold: float = 5.0
    writer_patience: float = 15.0
    batch_units: int = 256
    identify: Identify = Identify.PK
    ddl_sync: bool = True
    asynchronous: bool = False
    retries: int = 10


@dataclass(slots=True)
class Counters:
    """For metrics; they only grow. ``published_sequence``: the last message of this process that
    was met in the log."""

    published: int = 0
    published_sequence: int = 0
    applied: int = 0
    batches: int = 0
    replayed: int = 0
    ignored: int = 0
    dead_letters: int = 0
    publish_seconds: Distribution = field(default_factory=Distribution)
    apply_seconds: Distribution = field(default_factory=Distribution)


@dataclass(slots=True)
class Flight:
    """A batch whose messages are under way. ``progress``: trio's time of the last sign of life;
    ``base``: the position on which it ran."""

    units: list[Unit]
    ids: list[str]
    progress: float
    base: int
    refused: bool = False
    acked: int = 0
    waits_for_acks: bool = False


class Committer:
    """Owns the writer of one database. Run :meth:`run` in a nursery; then submit units."""

    def __init__(
        self,
        database_id: str,
        log: Log,
        executor: Executor,
        fold: Fold,
        options: CommitOptions,
        runtime: Runtime,
        on_schema_change: Callable[[], None],
        intercepting: bool = False,
        relay: Relay | None = None,
        mandate: Mandate | None = None,
    ) -> None:
        self.database_id = database_id
        self.counters = Counters()
        self.process_id = runtime.random.getrandbits(53)
        self._log = log
        self._executor = executor
        self._fold = fold
        self._options = options
        self._runtime = runtime
        self._on_schema_change = on_schema_change
        self._intercepting = intercepting
        self._relay = relay
        self.rule = Rule(mandate, options.node, self.process_id)
        self._known_term = fold.term
        self._tentative: int | None = None
        self._number = 0
        self._queue: deque[Unit] = deque()
        self._turns: deque[Turn] = deque()
        self._turn: Turn | None = None
        self._inbox: deque[Entry] = deque()
        self._under_way: dict[str, Unit] = {}
        self._waited_for: dict[Unit, None] = {}
        self._flight: Flight | None = None
        self._wake = trio.Event()
        self._applied_changed = trio.Event()
        self._position_changed = trio.Event()
        self._reset: LogReset | None = None
        self._verify = False
        self._stopping = False
        self._refusal: HaError | None = None
        self._resume_after = 0
        self._missing: int | None = None
        self.recover: Recover | None = None
        """Brings the file up to where the log can be followed again, when that has forgotten
        what comes next. Without it the database is severed then."""
        self._skips: set[int] = set()
        self.problem: HaError | None = None
        """Why the database refuses writes; None while all is well."""
        self.halted_at: int | None = None
        self._halted_by = b""
        self._rebased = False
        self.severed: str | None = None
        self.applied = fold.position.applied
        self.end_seen = 0
        """The last message that the log held when this node came, or came back, to it. Until the
        file contains it nothing is executed that others would have to lose to: what ran on an
        older state would overwrite writes that were acknowledged before it began."""
        self.applied_time_ns = 0
        """The broker's time of the last message applied in this process."""
        self.taps: list[Tap] = []
        """Told of each entry that the file contains now, in order, before anything else is."""
        if mandate is not None:
            mandate.on_change(self._notify)

    @property
    def waiting(self) -> int:
        """Transactions that wait for the writer."""
        return len(self._queue) + len(self._turns)

    # --- for sessions ----------------------------------------------------------------

    async def submit(self, unit: Unit) -> Unit:
        """Let ``unit`` be executed and committed. Returns when it is DONE; raises its error.

        If the caller is cancelled before the unit ran, it never runs; afterwards it runs to
        its end without the caller.
        """
        self._check(local=unit.local_ddl)
        self._queue.append(unit)
        self._waited_for[unit] = None
        self._notify()
        try:
            await unit.done.wait()
        except trio.Cancelled:
            if unit.stage is Stage.WAITING:
                self._queue.remove(unit)
            raise
        finally:
            del self._waited_for[unit]
        if unit.error is not None:
            raise unit.error
        return unit

    async def finished(self, unit: Unit) -> None:
        """Wait for a unit whose :meth:`submit` was cancelled when it had begun; at the latest it
        is done when :meth:`run` has ended."""
        self._waited_for[unit] = None
        try:
            await unit.done.wait()
        finally:
            del self._waited_for[unit]

    def cancel(self, unit: Unit) -> None:
        """Interrupt ``unit`` if its statements have not all run yet."""
        if unit.stage is Stage.WAITING and unit in self._queue:
            self._queue.remove(unit)
            unit.fail(HaError(Code.CANCELLED, "the statement was cancelled"))
        else:
            executor = unit.executor or self._executor
            if executor.current is unit:
                executor.connection.interrupt()

    async def take_turn(self, turn: Turn) -> None:
        """Wait until the writer belongs to ``turn``; raises BUSY after a bound."""
        self._check()
        self._turns.append(turn)
        self._notify()
        try:
            with trio.move_on_after(self._options.writer_patience) as scope:
                await turn.granted.wait()
        except trio.Cancelled:
            self._withdraw(turn)
            raise
        if scope.cancelled_caught and not turn.granted.is_set():
            self._withdraw(turn)
            raise HaError(
                Code.BUSY,
                f"another transaction kept the writer for {self._options.writer_patience:g} s",
                hint="try again",
            )
        if turn.error is not None:
            raise turn.error

    def _withdraw(self, turn: Turn) -> None:
        if turn in self._turns:
            self._turns.remove(turn)
        turn.release()

    async def wait_applied(self, sequence: int) -> None:
        """Return when the file contains the log up to ``sequence``."""
        while self.applied < sequence:
            await self._applied_changed.wait()

    async def wait_open(self) -> None:
        """Return when this node may write: at once where every node may."""
        while not self.rule.is_open(self._fold.term):
            await self._applied_changed.wait()

    async def confirm_term(self) -> None:
        """Return when the log has taken a message of this node's term, and no higher one before
        it. Raises HaError."""
        message = self._without_changes(Kind.TERM, None, self._fold.term.number)
        id_ = f"{self._options.node}-{self.process_id}-t{self._runtime.random.getrandbits(64):x}"
        timeout = self._options.publish_timeout
        try:
            ack = await self._log.publish_one(
                Outgoing(id_, encode_all(message, self._log.max_payload)[0]), timeout
            )
        except LogError as error:
            raise HaError(Code.UNAVAILABLE, f"the log does not answer: {error}") from error
        with trio.move_on_after(timeout):
            await self.wait_applied(ack.sequence)
        if self.applied < ack.sequence or not self.rule.is_open(self._fold.term):
            raise self.rule.fenced(self._fold.term)

    def refuse(self, error: HaError) -> None:
        """Take no new work from now on."""
        self._refusal = error

    def abandon(self, error: HaError) -> None:
        """When :meth:`run` has ended: whoever still waits is told."""
        if self.rule.mandate is not None:
            self.rule.mandate.forget(self._notify)
        self._refusal = self._refusal or error
        self._fail_waiting(error)
        units = [*self._waited_for, *self._under_way.values()]
        if self._turn is not None:
            self._turn.end(error)
            if self._turn.unit is not None:
                units.append(self._turn.unit)
        for unit in units:
            if unit.messages:
                self._doubt(unit)
            elif unit.stage is not Stage.DONE:
                unit.fail(error)

    def _check(self, *, local: bool = False) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self.problem is not None:
            raise self.problem
        forbidden = self.rule.forbids(self._fold.term)
        if forbidden is not None and not local:
            raise forbidden
        if self._stopping:
            raise HaError(Code.UNAVAILABLE, "the node is stopping", hint="use another node")

    # --- life ------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the log until cancelled."""
        try:
            while True:
                await self._follow(task_status)
                task_status = trio.TASK_STATUS_IGNORED
                await self._after_reset()
        finally:
            self.abandon(HaError(Code.UNAVAILABLE, "the node has stopped"))

    async def _follow(self, task_status: trio.TaskStatus[None]) -> None:
        """Follow the log with one subscription, until that must be made anew."""
        self._inbox.clear()
        self._reset = None
        after, self._resume_after = self._resume_after, 0
        async with (
            self._log.subscribe(max(after, self._fold.position.applied)) as subscription,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._pump, subscription.receive)
            nursery.start_soon(self._watch_connection)
            if self._relay is not None:
                nursery.start_soon(self._relay.run, self._may_publish)
            task_status.started()
            await self._loop()
            nursery.cancel_scope.cancel()

    async def stop(self) -> None:
        """Refuse new work, and return when what is under way is done."""
        self._stopping = True
        while (
            self._queue
            or self._flight
            or self._turn
            or any(u.stage is not Stage.DONE for u in self._under_way.values())
        ):
            self._notify()
            await self._position_changed.wait()

    async def _pump(self, receive: Callable[[], object]) -> None:
        while True:
            try:
                entries = await receive()  # type: ignore[misc]
            except LogReset as reset:
                self._reset = reset
                self._notify()
                return
            self._inbox.extend(entries)
            self._notify()

    async def _watch_connection(self) -> None:
        while True:
            await self._log.wait_disconnected()
            self._verify = True
            self._notify()
            await self._log.wait_connected()
            self._notify()

    def _notify(self) -> None:
        self._wake.set()

    async def _sleep(self, deadline: float = inf) -> bool:
        """Wait for a notification; False when ``deadline`` came first."""
        if deadline == inf:
            await self._wake.wait()
        else:
            with trio.move_on_at(deadline):
                await self._wake.wait()
        rung = self._wake.is_set()
        self._wake = trio.Event()
        return rung

    # --- the loop --------------------------------------------------------------------

    async def _loop(self) -> None:
        """Returns when the subscription must be made anew."""
        while True:
            if self._reset is not None or self.severed is not None:
                return
            if self._verify and self._log.connected:
                await self._verify_identity()
            elif self._inbox and self.halted_at is None:
                await self._apply_inbox()
            elif self.halted_at is not None and self._find_skip():
                self.halted_at = None
                self.problem = None
            elif self._must_open():
                self._open_term()
            elif self._under_way:
                await self._settle()
            elif self.problem is not None:
                self._fail_waiting(self.problem)
                await self._sleep()
            elif self._relay is not None and self._fold.suffix.misplaced:
                await self._renumber(self._relay)
            elif self._must_wait():
                await self._wait_for_log()
            elif (self._queue or self._turns) and not self._may_write():
                await self._wait_for_term()
            elif self._turns:
                await self._serve_turn(self._turns.popleft())
            elif self._queue:
                await self._batch()
            else:
                self._signal_position()
                await self._sleep(self._opening_until())

    def _must_wait(self) -> bool:
        """Is there work that needs the log, which is not in reach (or has others first)?"""
        if not self._queue and not self._turns:
            return False
        if self._log.connected and self._is_behind():
            return True
        if self._relay is None:
            return not self._log.connected
        if self._turns or not self._queue[0].drains:
            return False
        return not self._log.connected or self._waits(self._relay.outbox)

    def _waits(self, outbox: Outbox) -> bool:
        """Does anything wait for the log, or can the file not be asked?"""
        try:
            return outbox.waits(self._fold.connection)
        except apsw.Error:
            return True

    def _is_behind(self) -> bool:
        return self.applied < self.end_seen

    def begin(self, state: LogState) -> None:
        """The file has just been joined to the log, which was in this state."""
        self.end_seen = state.subject_last
        self._verify = self._may_lack(state)

    def _may_lack(self, state: LogState) -> bool:
        """Has the stream forgotten what came after our position, if anything did?"""
        return self.applied > 0 and self._log.nothing_until(self.applied) < state.first - 1

    def _came_back(self, state: LogState) -> None:
        """The log is in reach again. (Who writes without it need not wait for what came
        meanwhile: that goes under what waits here.)"""
        if self._relay is None:
            self.end_seen = state.subject_last

    def _signal_position(self) -> None:
        self._position_changed.set()
        self._position_changed = trio.Event()

    def _fail_waiting(self, error: HaError) -> None:
        while self._queue:
            self._queue.popleft().fail(error)
        while self._turns:
            self._turns.popleft().deny(error)

    async def _wait_for_log(self) -> None:
        seconds = f"{self._options.publish_timeout:g} s"
        if self._log.connected and self._is_behind():
            why = f"still catching up with the log after {seconds}, at {self.applied}"
            why += f" of {self.end_seen}"
        else:
            why = f"the log was not in reach for {seconds}"
        deadline = self._fail_late(why)
        if deadline < inf:
            await self._sleep(deadline)

    def _fail_late(self, why: str) -> float:
        """Nothing has been sent: whoever waits too long learns so for certain. The deadline of
        those who still wait."""
        now = trio.current_time()
        error = HaError(
            Code.NOT_WRITTEN,
            why,
            hint="nothing was written; try again when the node is connected (GET /readyz)",
        )
        for unit in [u for u in self._queue if u.deadline <= now]:
            self._queue.remove(unit)
            unit.fail(error)
        for turn in [t for t in self._turns if t.deadline <= now]:
            self._turns.remove(turn)
            turn.deny(error)
        waiting = [u.deadline for u in self._queue] + [t.deadline for t in self._turns]
        return min(waiting, default=inf)

    # --- the term --------------------------------------------------------------------

    def _must_open(self) -> bool:
        if self.rule.mandate is None or self.problem is not None or not self._log.connected:
            return False
        return self.rule.to_open(self._fold.term, trio.current_time()) is not None

    def _open_term(self) -> None:
        """Let the log say from where on the messages of this node alone count."""
        now = trio.current_time()
        term = self.rule.to_open(self._fold.term, now)
        assert term is not None
        opening = self.rule.opening
        if opening is None or opening.term != term:
            origin = self._next_origin()
            message = self._without_changes(Kind.TERM, origin, term)
            payload = encode_all(message, self._log.max_payload)[0]
            opening = Opening(term, origin.message_id, payload, now)
            self.rule.opening = opening
        opening.again_at = now + Rule.AGAIN
        try:
            # Only the log can say that it was taken: the ack tells nothing that is needed.
            self._log.publish(
                [Outgoing(opening.message_id, opening.payload)], lambda index, outcome: None
            )
        except NotSent as error:
            logger.debug("the term %d cannot be opened yet: %s", term, error)

    def _opening_until(self) -> float:
        """When to look again at a term whose opening is under way."""
        opening = self.rule.opening
        mandate = self.rule.mandate
        if opening is None or mandate is None or mandate.held != opening.term:
            return inf
        if self._fold.term.number >= opening.term or not self._log.connected:
            return inf  # it is open, or can never be; the connection tells when it is back
        return opening.again_at

    def _may_write(self) -> bool:
        if self.rule.is_open(self._fold.term):
            return True
        return not self._turns and self._queue[0].local_ddl

    async def _wait_for_term(self) -> None:
        error = self.rule.forbids(self._fold.term)
        if error is not None:
            self._fail_waiting(error)
            return
        deadline = self._fail_late("the log did not take the new leader's term in time")
        if self._queue or self._turns:
            await self._sleep(min(deadline, self._opening_until()))

    def _drop_fenced(self) -> None:
        """What was sent in an earlier term, and has not been met yet, can never count."""
        term = self._fold.term
        if term == self._known_term:
            return
        self._known_term = term
        for message_id, unit in reversed(list(self._under_way.items())):
            if unit.term < term.number or not self.rule.is_ours(term):
                del self._under_way[message_id]
                self._fenced(unit)

    def _fenced(self, unit: Unit) -> None:
        """It counts nowhere: it may be executed again by who leads."""
        if unit.stage is Stage.DONE:
            return
        if self.rule.forbids(self._fold.term) is None and self._again(unit):
            return
        unit.fail(self.rule.fenced(self._fold.term))

    # --- foreign messages ------------------------------------------------------------

    async def _apply_inbox(self) -> None:
        entries: list[Entry] = []
        size = 0
        while self._inbox and len(entries) < APPLY_ENTRIES and size < APPLY_BYTES:
            entry = self._inbox.popleft()
            entries.append(entry)
            size += len(entry.payload)
        skipped = frozenset(self._skips)
        fold = self._fold
        began = trio.current_time()
        try:
            folded = await self._runtime.run(
                fold.connection,
                lambda: fold.apply(entries, skipped),
                fold.connection.rollback,
                long=size > INLINE_BYTES,
            )
        except Gap as gap:
            self._applied(gap.before)
            self._missing = gap.base
            self._rebased = isinstance(gap, Rebased)
            self._reset = LogReset(str(gap), ResetReason.TRUNCATED)
        except Halt as halt:
            self._applied(halt.before)
            position = entries.index(halt.entry)
            self._inbox.extendleft(reversed(entries[position:]))
            self._halt(halt)
        except HaError as error:
            self._inbox.extendleft(reversed(entries))
            await self._stuck(error)
        else:
            if self.problem is not None and self.halted_at is None:
                self.problem = None
            self.counters.apply_seconds.observe(trio.current_time() - began)
            self._applied(folded)

    def _applied(self, folded: list[Folded]) -> None:
        schema = False
        if folded:
            self.applied_time_ns = folded[-1].entry.time_ns
        own = f"{self._options.node}-{self.process_id}-"
        for one in folded:
            schema = schema or one.schema
            if one.entry.message_id.startswith(own):
                self.counters.published_sequence = one.entry.sequence
            self.counters.applied += 1
            for tap in self.taps:
                tap(one.entry, one.verdict.counts)
            if not one.verdict.counts:
                self.counters.ignored += 1
                self._warn_of_loss(one, own)
            unit = self._under_way.pop(one.entry.message_id, None)
            if unit is not None and one.entry.message_id == unit.last_id:
                self._resolve(unit, one)
        self._drop_fenced()
        self._moved(self._fold.position.applied, schema)

    def _warn_of_loss(self, folded: Folded, own: str) -> None:
        """A client was told of success before the log had its transaction, which now ignores it."""
        again = folded.verdict in (Verdict.HOLE, Verdict.REPEATED)
        if self._relay is None or again or not folded.entry.message_id.startswith(own):
            return
        logger.warning(
            "a transaction that was acknowledged here does not count",
            extra={
                "database": self.database_id,
                "sequence": folded.entry.sequence,
                "verdict": folded.verdict.value,
            },
        )

    def _moved(self, sequence: int, schema: bool) -> None:
        if schema:
            self._on_schema_change()
        self.applied = sequence
        if self._relay is not None:
            self._relay.wake()
        self._applied_changed.set()
        self._applied_changed = trio.Event()

    def _resolve(self, unit: Unit, folded: Folded) -> None:
        """``unit``'s message was met in the log, on the way of everybody's."""
        if unit.stage is Stage.DONE:
            return
        sequence = folded.entry.sequence
        if folded.kind is Kind.VOID:
            unit.fail(_not_written("its publish was never acknowledged, and was made void"))
        elif folded.verdict is Verdict.FENCED:
            self._fenced(unit)
        elif folded.verdict.counts:
            unit.succeed(sequence)
        elif folded.verdict in (Verdict.HOLE, Verdict.STALE) and self._again(unit):
            pass
        elif folded.verdict is Verdict.HOLE or folded.verdict is Verdict.REPEATED:
            unit.fail(_not_written("a transaction on which it was built was not written"))
        elif folded.verdict is Verdict.STALE:
            unit.fail(
                HaError(
                    Code.SERIALIZATION_FAILURE,
                    "a virtual table changed on another node at the same time",
                    hint="run the transaction again",
                    sequence=sequence,
                )
            )
        else:
            unit.fail(
                HaError(
                    Code.NOT_APPLIED,
                    f"the transaction is in the log at {sequence}, but it did not apply after"
                    f" what other nodes had written: {folded.reason or folded.verdict.value}",
                    sequence=sequence,
                )
            )

    def _again(self, unit: Unit) -> bool:
        if not unit.again or self._stopping:
            return False
        # One that must follow directly on what it saw may lose many races with busy nodes.
        patient = unit.alone and trio.current_time() < unit.deadline
        if unit.tries >= self._options.retries and not patient:
            return False
        unit.reset()
        unit.tries += 1
        self._queue.appendleft(unit)
        return True

    def _halt(self, halt: Halt) -> None:
        self.counters.dead_letters += 1
        self.halted_at = halt.entry.sequence
        self._halted_by = halt.entry.payload
        self.problem = HaError(
            Code.UNAVAILABLE,
            f"the message at {halt.entry.sequence} cannot be applied: {halt.reason}",
            hint="see GET /replications/dead-letters; mend its cause and restart, or skip it on"
            f" all nodes with POST /replications/dead-letters/{halt.entry.sequence}/skip",
            sequence=halt.entry.sequence,
        )
        logger.error("halted at %d: %s", halt.entry.sequence, halt.reason)
        for entry in self._inbox:
            unit = self._under_way.pop(entry.message_id, None)
            if unit is None or entry.message_id != unit.last_id:
                continue
            if entry is halt.entry:
                self._written(unit, entry.sequence)
            else:  # what it will count for, once the other is passed over, nobody has seen
                self._doubt(unit, _UNSEEN)

    def _find_skip(self) -> bool:
        """Has a message further on let all nodes pass over the one we stand before?"""
        for entry in self._inbox:
            if b'"skip"' not in entry.payload:
                continue
            try:
                cs = decode(entry.payload)
            except FormatError:
                continue
            if cs.kind is Kind.SKIP and cs.target is not None and cs.target == self.halted_at:
                self._skips.add(cs.target)
                return True
        return False

    async def _stuck(self, error: HaError) -> None:
        """SQLite cannot take what the log holds (disk full, I/O): refuse, and try again."""
        self.problem = HaError(
            Code.UNAVAILABLE,
            f"the log cannot be applied at {self.applied}: {error.message}",
            hint="the node goes on by itself when the cause is gone",
        )
        logger.error("cannot apply after %d: %s", self.applied, error.message)
        self._fail_waiting(self.problem)
        await trio.sleep(1)

    # --- own transactions ------------------------------------------------------------

    async def _batch(self) -> None:
        units: list[Unit] = []
        while self._queue and len(units) < self._options.batch_units:
            first = self._queue[0]
            alone = first.local_ddl or first.drains or first.alone
            if alone and units:
                break
            unit = self._queue.popleft()
            unit.stage = Stage.RUNNING
            units.append(unit)
            if alone:
                break
        executor = units[0].executor or self._executor
        size = sum(len(u.statements) for u in units)
        try:
            await self._runtime.run(
                executor.connection,
                lambda: run_batch(executor, units),
                executor.connection.rollback,
                long=size - len(units) > INLINE_TICKS or units[0].work is not None,
                ticks=INLINE_TICKS + len(units),
            )
        except (HaError, apsw.Error) as problem:
            executor.connection.rollback()
            error = from_sqlite(problem)
            for unit in units:
                unit.fail(error)
            return
        if units[0].local_ddl:
            self._commit_local(units[0])
            return
        writers = [u for u in units if u.captured is not None]
        if not writers:
            executor.connection.rollback()
            for unit in units:
                self._answer(unit)
            return
        if self._relay is not None and not units[0].drains:
            await self._commit_tentative(self._relay, executor, units)
        else:
            await self._publish(executor, units, writers)

    async def _publish(self, executor: Executor, units: list[Unit], writers: list[Unit]) -> None:
        """Send the batch, and commit it if the log has it next; else leave it to the log."""
        if not self.rule.is_open(self._fold.term):
            executor.connection.rollback()
            self._requeue(units, self.rule.forbids(self._fold.term))
            return
        if units[0].alone:
            await self._publish_alone(executor, units[0])
            return
        flight = Flight(units, [], trio.current_time(), self.applied)
        after: int | None = None
        messages: list[Outgoing] = []
        for unit in writers:
            try:
                unit.messages = await self._encode(unit, after)
            except HaError as error:
                # Those after it may have seen its effects: they are executed again.
                executor.connection.rollback()
                unit.fail(error)
                self._requeue([u for u in units if u.stage is not Stage.DONE])
                return
            after = unit.number
            messages.extend(unit.messages)
        flight.ids = [m.message_id for m in messages]
        owners = [u for u in writers for _ in u.messages]
        sent = await self._send(flight, owners, messages)
        if sent == len(messages):
            await self._arrive(executor, flight, writers, owners, messages)
            return
        # What lacks its last part is not in the log; what is whole there goes its way.
        executor.connection.rollback()
        whole = [u for u in writers if flight.ids.index(u.messages[-1].message_id) < sent]
        for unit in whole:
            self._leave_to_the_log(unit)
        self._requeue([u for u in units if u not in whole], _not_written("the connection was lost"))
        await self._sleep(trio.current_time() + 0.1)

    async def _send(self, flight: Flight, owners: list[Unit], messages: list[Outgoing]) -> int:
        """Publish all in one go, or a window at a time if they are many bytes; how many went."""
        sent = 0
        while sent < len(messages):
            size = 0
            end = sent
            while end < len(messages) and (size == 0 or size < WINDOW_BYTES):
                size += len(messages[end].payload)
                end += 1

            def on_ack(index: int, outcome: Ack | LogError, start: int = sent) -> None:
                at = start + index
                self._on_ack(flight, owners[at], flight.ids[at], outcome)

            try:
                self._log.publish(messages[sent:end], on_ack)
            except NotSent:
                return sent
            sent = end
            if sent < len(messages):
                flight.waits_for_acks = True
                if not await self._acked(flight, sent):
                    return sent
        return sent

    async def _acked(self, flight: Flight, count: int) -> bool:
        """Wait until so many messages are acknowledged; False if one of them never will be."""
        while flight.acked < count:
            if flight.refused or self._verify or self._reset is not None:
                return False
            deadline = flight.progress + self._options.publish_timeout
            if not await self._sleep(deadline) and trio.current_time() >= deadline:
                return False
        return True

    async def _publish_alone(self, executor: Executor, unit: Unit) -> None:
        """Send a transaction that must follow directly on what it ran on, each part on the last."""
        connection = executor.connection
        try:
            unit.messages = await self._encode(unit, None)
        except HaError as error:
            connection.rollback()
            unit.fail(error)
            return
        ids = [m.message_id for m in unit.messages]
        flight = Flight([unit], ids, trio.current_time(), self.applied)
        last = self.applied
        for message in unit.messages:
            try:
                last = await self._publish_after(message, last)
            except NotSent as error:
                # Parts that were sent have no end: every node drops them.
                connection.rollback()
                if not isinstance(error, WrongLast):
                    unit.fail(_not_written(str(error)))
                elif self._again(unit):
                    await self._wait_for_message()
                else:
                    unit.fail(_overtaken())
                return
            except LogError:
                connection.rollback()
                self._leave_to_the_log(unit)
                return
        unit.acked = True
        await self._arrive(executor, flight, [unit], [unit] * len(unit.messages), unit.messages)

    async def _wait_for_message(self) -> None:
        """The log has one that has not arrived yet."""
        deadline = trio.current_time() + self._options.publish_timeout
        while not self._inbox and self._reset is None and trio.current_time() < deadline:
            await self._sleep(deadline)

    async def _publish_after(self, message: Outgoing, last: int) -> int:
        """Where it stands. Raises WrongLast if another message of the subject follows ``last``."""
        timeout = self._options.publish_timeout
        try:
            ack = await self._log.publish_one(replace(message, expect_last=last), timeout)
        except WrongLast as error:
            if error.last != 0:
                raise
            # The stream has forgotten all messages of the subject, the last one too.
            ack = await self._log.publish_one(replace(message, expect_last=0), timeout)
        return ack.sequence

    async def _arrive(
        self,
        executor: Executor,
        flight: Flight,
        writers: list[Unit],
        owners: list[Unit],
        messages: list[Outgoing],
    ) -> None:
        """Commit if what was sent is what the log has next; else leave it to the log."""
        units = flight.units
        self._flight = flight
        self.counters.batches += 1
        self.counters.published += len(messages)
        began = trio.current_time()
        met = await self._follows(flight)
        self.counters.publish_seconds.observe(trio.current_time() - began)
        self._flight = None
        if met is not None and not self._intercepting:
            await self._commit(executor, units, writers, met)
        else:
            executor.connection.rollback()
            self.counters.replayed += 1
            if met is not None:
                self._inbox.extendleft(reversed(met))
            for unit in writers:
                self._leave_to_the_log(unit)
            self._requeue([u for u in units if u.captured is None])

    def _leave_to_the_log(self, unit: Unit) -> None:
        """Its last message decides: without an earlier part that one is ignored by all."""
        assert unit.last_id is not None
        self._under_way[unit.last_id] = unit

    def _without_changes(self, kind: Kind, origin: Origin | None, term: int) -> ChangeSet:
        """It says on which position it was written all the same: who lacks what stands before it
        learns so, and not of a later one, which may be built on this."""
        return ChangeSet(
            node=self._options.node,
            process_id=self.process_id,
            database_id=self.database_id,
            changes=(),
            timestamp_ns=self._runtime.now_ns(),
            kind=kind,
            origin=origin,
            uuid=self._fold.position.uuid,
            base=self._fold.position.applied,
            term=term or None,
        )

    def _next_origin(self) -> Origin:
        self._number += 1
        return Origin(self._options.node, self.process_id, self._number)

    async def _encode(self, unit: Unit, after: int | None) -> list[Outgoing]:
        captured = unit.captured
        assert captured is not None
        origin = self._next_origin()
        unit.number = origin.number
        unit.term = self._fold.term.number
        identify = self._options.identify
        cs = ChangeSet(
            node=origin.node,
            process_id=origin.process_id,
            database_id=self.database_id,
            changes=tuple(captured.changes),
            timestamp_ns=self._runtime.now_ns(),
            origin=origin,
            uuid=self._fold.position.uuid,
            base=self._fold.position.applied,
            after=after,
            identify=identify,
            virtual=tuple(captured.virtual),
            sequences=tuple(captured.sequences),
            term=unit.term or None,
            extra={"request": unit.request} if unit.request else {},
        )
        limit = self._log.max_payload
        if len(cs.changes) <= 100:
            payloads = encode_all(cs, limit)
        else:
            payloads = await self._runtime.run_in_thread(lambda: encode_all(cs, limit))
        return messages_of(origin, payloads)

    def _on_ack(self, flight: Flight, unit: Unit, message_id: str, outcome: Ack | LogError) -> None:
        flight.progress = trio.current_time()
        if isinstance(outcome, Ack):
            flight.acked += 1
            if flight.waits_for_acks:
                self._notify()
            if message_id == unit.last_id:
                unit.acked = True
            if outcome.sequence <= flight.base and not outcome.duplicate:
                self._verify = True
                self._notify()
        elif isinstance(outcome, NotSent):
            unit.refused = _not_written(str(outcome))
            unit.passing = not isinstance(outcome, Refused)
            flight.refused = True
            self._notify()

    async def _follows(self, flight: Flight) -> list[Entry] | None:
        """The batch's messages, if they are the next ones of the log; else None.

        What arrived otherwise stays in the inbox, in order.
        """
        met: list[Entry] = []
        ids = flight.ids
        while True:
            while self._inbox and self._inbox[0].message_id == ids[len(met)]:
                met.append(self._inbox.popleft())
                if len(met) == len(ids):
                    return met
                flight.progress = trio.current_time()
            if self._inbox or flight.refused or self._verify or self._intercepting:
                break
            if self._reset is not None:
                break
            deadline = flight.progress + self._options.publish_timeout
            if not await self._sleep(deadline) and trio.current_time() >= deadline:
                break
        self._inbox.extendleft(reversed(met))
        return None

    async def _commit(
        self, executor: Executor, units: list[Unit], writers: list[Unit], met: list[Entry]
    ) -> None:
        last = met[-1]
        sequences: dict[str | None, int] = {e.message_id: e.sequence for e in met}
        connection = executor.connection

        def write() -> None:
            for unit in writers:
                assert unit.captured is not None
                for name in unit.captured.virtual:
                    control.set_virtual(
                        connection,
                        name,
                        sequences[unit.last_id],
                        self._options.node,
                        self.process_id,
                        unit.number,
                    )
            number = writers[-1].number
            node = self._options.node
            control.set_origin_seen(connection, node, self.process_id, number, number)
            self._fold.drop_parts(connection, node, self.process_id, number)
            control.advance(
                connection, self._log.subject, last.sequence, last.time_ns, last.payload
            )
            connection.execute("COMMIT")

        connection.cancelled = False
        try:
            write()
        except (apsw.Error, HaError) as problem:
            connection.rollback()
            error = from_sqlite(problem)
            self._inbox.extendleft(reversed(met))
            for unit in units:
                if unit.captured is None:
                    unit.fail(error)
                    continue
                sequence = sequences[unit.last_id]
                unit.fail(
                    HaError(
                        Code.WRITTEN_NOT_APPLIED,
                        f"the transaction is in the log at {sequence}, but this node could not"
                        f" commit it: {error.message}",
                        hint="do not send it again; the node applies it when the cause is gone",
                        sequence=sequence,
                    )
                )
            await self._stuck(error)
            return
        schema = any(_changes_schema(u) for u in writers)
        self._fold.moved(last.sequence, last.payload)
        self.counters.published_sequence = last.sequence
        self.applied_time_ns = last.time_ns
        self.counters.applied += len(met)
        for tap in self.taps:
            for entry in met:
                tap(entry, True)
        self._moved(last.sequence, schema)
        for unit in units:
            self._answer(unit, sequences[unit.last_id] if unit.messages else 0)

    # --- asynchronous replication ----------------------------------------------------

    async def _commit_tentative(self, relay: Relay, executor: Executor, units: list[Unit]) -> None:
        """Commit before the log has it: data and outbox in one SQLite transaction."""
        connection = executor.connection
        outbox = relay.outbox
        before = self._tentative
        committing = False
        try:
            for unit in units:
                if unit.captured is not None:
                    after = self._tentative if outbox.waits(connection) else None
                    unit.messages = await self._encode(unit, after)
                    outbox.add(connection, unit.messages)
                    self._tentative = unit.number
            committing = True
            connection.execute("COMMIT")
        except (apsw.Error, HaError) as problem:
            connection.rollback()
            error = from_sqlite(problem)
            stands = self._may_stand(outbox, connection, units, error)
            if not stands:
                self._tentative = before
            doubtful = stands or (committing and error.code is not Code.DISK_FULL)
            for unit in units:
                if doubtful and unit.messages:
                    self._doubt(unit, f"the file did not say whether it took it: {error.message}")
                else:
                    unit.fail(error)
            relay.wake()
            return
        for unit in units:
            self._answer(unit)
        relay.wake()

    @staticmethod
    def _may_stand(
        outbox: Outbox, connection: Connection, units: list[Unit], error: HaError
    ) -> bool:
        """Does the file hold a batch whose COMMIT failed, or can it not be asked?"""
        outbox.rolled_back(connection)
        try:
            ids = [unit.last_id for unit in units if unit.last_id is not None]
            return bool(ids) and outbox.transaction_of(connection, ids[-1]) is not None
        except apsw.Error as problem:
            logger.error("cannot read the outbox after %s: %s", error.message, problem)
            return True

    async def _renumber(self, relay: Relay) -> None:
        """What was published out of its place counts nowhere: publish it again."""
        connection = self._fold.connection
        try:
            # The log may soon have it under the new numbers: a file that a power failure puts
            # back would publish it under yet others, and it would count once more.
            with synced(connection), connection.writing():
                relay.outbox.renumber(connection, self._next_origin, self._log.max_payload)
        except (apsw.Error, HaError) as problem:
            relay.outbox.rolled_back(connection)
            await self._stuck(from_sqlite(problem))
            return
        self._fold.suffix.misplaced = False
        self._tentative = self._number
        relay.again(careful=True)

    def _may_publish(self) -> bool:
        return self._log.connected and not self._verify and self.problem is None

    def _answer(self, unit: Unit, sequence: int = 0) -> None:
        if unit.error is not None:
            unit.fail(unit.error)
        else:
            unit.succeed(sequence)

    def _commit_local(self, unit: Unit) -> None:
        """DDL under --disable-ddl-sync: committed here at once, told to nobody."""
        connection = self._executor.connection
        if unit.error is not None:
            connection.rollback()
        else:
            try:
                connection.execute("COMMIT")
            except apsw.Error as error:
                connection.rollback()
                unit.error = from_sqlite(error)
            self._on_schema_change()
        self._answer(unit)

    def _requeue(self, units: list[Unit], error: HaError | None = None) -> None:
        """To be executed again, for nothing of them is in the log; or ``error``, if they cannot."""
        for unit in reversed(units):
            if unit.again:
                unit.reset()
                self._queue.appendleft(unit)
            else:
                unit.fail(error or _not_written("its batch was given up"))

    # --- what is under way without its batch -----------------------------------------

    async def _settle(self) -> None:
        """Wait for the rest of a batch in the log; what never comes is made void."""
        pause = 0.0
        refused = {id_: u for id_, u in self._under_way.items() if u.refused is not None}
        for id_, unit in refused.items():
            del self._under_way[id_]
            if unit.stage is Stage.DONE or unit.refused is None:
                continue
            if unit.passing and unit.again and trio.current_time() < unit.deadline:
                unit.reset()
                self._queue.appendleft(unit)
                pause = 0.1
            else:
                unit.fail(unit.refused)
        if pause:
            await self._sleep(trio.current_time() + pause)
        if not self._under_way:
            return
        now = trio.current_time()
        for unit in self._under_way.values():
            if unit.settle_at is None:
                unit.settle_at = now + self._options.publish_timeout
        deadline = min(u.settle_at or now for u in self._under_way.values())
        if now < deadline:
            if any(u.stage is Stage.DONE for u in self._under_way.values()):
                # Its client could not wait any longer: nor must those behind it.
                waiting = self._fail_late(
                    "the log has not said in time what became of earlier transactions"
                )
                deadline = min(deadline, waiting)
            await self._sleep(deadline)
        elif not self._inbox or self.halted_at is not None:
            await self._make_void()

    async def _make_void(self) -> None:
        """Take the place of messages whose publish was never acknowledged."""
        now = trio.current_time()
        late = [(i, u) for i, u in self._under_way.items() if (u.settle_at or now) <= now]
        for id_, unit in late:
            unit.settle_at = now + self._options.publish_timeout
            if unit.acked:
                self._doubt(unit, _UNSEEN)
            elif not self._log.connected or self.halted_at is not None:
                self._doubt(unit)
            else:
                await self._void(id_, unit)

    async def _void(self, id_: str, unit: Unit) -> None:
        origin = Origin(self._options.node, self.process_id, unit.number)
        void = self._without_changes(Kind.VOID, origin, unit.term)
        message = Outgoing(id_, encode_all(void, self._log.max_payload)[0])
        try:
            await self._log.publish_one(message, self._options.publish_timeout)
        except LogError:
            # Even a refusal says nothing of the first try: only the log can.
            self._doubt(unit)

    def _written(self, unit: Unit, sequence: int | None = None) -> None:
        """The log has it, but this node cannot apply it yet."""
        if unit.stage is not Stage.DONE:
            unit.fail(
                HaError(
                    Code.WRITTEN_NOT_APPLIED,
                    "the transaction is in the log, but this node could not apply it in time",
                    hint="do not send it again; the node applies it when it has caught up",
                    sequence=sequence,
                )
            )

    def _doubt(
        self,
        unit: Unit,
        why: str = "the log did not say in time whether it took the transaction",
    ) -> None:
        if unit.stage is not Stage.DONE:
            unit.fail(
                HaError(
                    Code.OUTCOME_UNKNOWN,
                    why,
                    hint="it may still be written: look before you send it again",
                )
            )

    # --- interactive transactions ----------------------------------------------------

    async def _serve_turn(self, turn: Turn) -> None:
        if turn.released.is_set():
            return
        turn.grant(self._notify)
        self._turn = turn
        await self._hold_turn(turn)
        self._turn = None

    async def _hold_turn(self, turn: Turn) -> None:
        hold_until = inf
        while not turn.released.is_set():
            if turn.unit is not None:
                await self._commit_turn(turn, turn.unit)
                return
            if not self.rule.is_open(self._fold.term):
                turn.expire(self.rule.forbids(self._fold.term) or _overtaken())
                await turn.released.wait()
                return
            waiting = bool(self._inbox or self._queue or self._turns or self._reset)
            now = trio.current_time()
            if not waiting:
                hold_until = inf
            elif hold_until == inf:
                hold_until = now + self._options.transaction_hold
            elif now >= hold_until:
                turn.expire(_held(self._options.transaction_hold))
                await turn.released.wait()
                return
            await self._sleep(hold_until)

    async def _commit_turn(self, turn: Turn, unit: Unit) -> None:
        unit.stage = Stage.RUNNING
        connection = turn.executor.connection
        if self._relay is not None:
            await self._commit_tentative(self._relay, turn.executor, [unit])
            return
        if not self._log.connected:
            with trio.move_on_after(self._options.publish_timeout):
                await self._log.wait_connected()
        if self._verify and self._log.connected:
            await self._verify_identity()
        if self.problem is not None or self._reset is not None:
            connection.rollback()
            why = str(self._reset) if self.problem is None else self.problem.message
            unit.fail(_not_written(why))
            return
        await self._publish(turn.executor, [unit], [unit])

    # --- the log's identity ----------------------------------------------------------

    async def _verify_identity(self) -> None:
        try:
            state = await check_identity(self._log, self._fold.position)
        except Mismatch as mismatch:
            self._verify = False
            self.sever(str(mismatch))
        except LogError:
            await self._sleep(trio.current_time() + 0.2)
        else:
            self._verify = False
            self._came_back(state)
            if self._may_lack(state):
                # The subscription would come to it, but nothing may be executed until then.
                self._reset = LogReset(
                    f"the stream begins at {state.first}", ResetReason.TRUNCATED, state.first
                )
            if self._relay is not None:
                self._relay.again()
            now = trio.current_time()
            for unit in self._under_way.values():
                unit.settle_at = now
                unit.acked = False  # since then the log may have lost it
            if self.halted_at is not None:
                await self._look_again(self.halted_at)

    async def _look_again(self, sequence: int) -> None:
        """A log that has lost its end may not have the message any more that halted us."""
        try:
            entry = await self._log.entry(sequence)
        except LogError:
            self._verify = True
            return
        if entry is None or entry.payload != self._halted_by:
            logger.warning("the message at %d that halted us is gone", sequence)
            self.halted_at = self.problem = None
            self._skips.clear()
            self._reset = LogReset(
                f"the message at {sequence} is another one now", ResetReason.BEHIND, 0
            )

    def sever(self, reason: str) -> None:
        """The file stays readable and refuses writes: it does not follow this log."""
        self.severed = reason
        self.problem = HaError(
            Code.UNAVAILABLE,
            f"the database does not follow its log: {reason}",
            hint="adopt the log's content with POST /replications/adopt,"
            " or make this file its new base with POST /replications/rebase",
        )
        logger.error("severed from the log at %d: %s", self.applied, reason)

    async def _after_reset(self) -> None:
        """The subscription ended: go on where it stood if this is still our log."""
        reset = self._reset
        while self.severed is None:
            try:
                state = await check_identity(self._log, self._fold.position)
            except Mismatch as mismatch:
                self.sever(str(mismatch))
            except LogError:
                await trio.sleep(0.2)
            else:
                self._came_back(state)
                if reset is not None and reset.reason is ResetReason.TRUNCATED:
                    await self._recover_from(reset)
                break
        await self._end_severed()

    async def _recover_from(self, reset: LogReset) -> None:
        """The log has forgotten what comes next, or may have."""
        missing, self._missing = self._missing, None
        rebased, self._rebased = self._rebased, False
        if self.recover is None:
            self.sever(str(reset))
            return
        try:
            self._resume_after = await self.recover(missing, rebased)
        except Mismatch as mismatch:
            self.sever(str(mismatch))
        else:
            self.problem = None

    def resume(self) -> None:
        """An operator has brought file and log together again: follow it from where it stands."""
        self.severed = None
        self.problem = None
        self.halted_at = None
        self._skips.clear()
        self._reset = None
        self._resume_after = 0
        self.end_seen = 0  # of the log as it was
        self._verify = True
        self._moved(self._fold.position.applied, schema=True)
        self._notify()

    def fall_behind(self, why: str) -> None:
        """Nothing can be written until the file was brought up by a snapshot."""
        self.problem = HaError(
            Code.UNAVAILABLE,
            f"the database is behind its log, at {self.applied}: {why}",
            hint="the node brings itself up by a snapshot; until then it shows an older state",
        )
        logger.warning("behind the log at %d: %s", self.applied, why)
        self._fail_waiting(self.problem)

    def replaced(self, executor: Executor, fold: Fold) -> None:
        """The file is another one now, further on in the log."""
        for unit in self._under_way.values():
            self._doubt(unit)
        self._under_way.clear()
        self._executor = executor
        self._fold = fold
        self.problem = None
        self._moved(fold.position.applied, schema=True)

    async def _end_severed(self) -> None:
        """Refuse all until an operator has repaired it."""
        while self.severed is not None:
            self._fail_waiting(self.problem or _not_written(self.severed))
            for unit in self._under_way.values():
                self._doubt(unit)
            self._under_way.clear()
            self._signal_position()
            await self._sleep()


def _changes_schema(unit: Unit) -> bool:
    captured = unit.captured
    return captured is not None and any(c.operation is Operation.SQL for c in captured.changes)


_UNSEEN = "the log has the transaction, but this node has not seen in time whether it counts there"


def _not_written(why: str) -> HaError:
    return HaError(
        Code.NOT_WRITTEN, f"the transaction was not written: {why}", hint="it may be sent again"
    )


def _overtaken() -> HaError:
    return HaError(
        Code.SERIALIZATION_FAILURE,
        "another transaction came first: this one was not written",
        hint="try again",
    )


def _held(seconds: float) -> HaError:
    return HaError(
        Code.TRANSACTION_HOLD,
        f"the transaction kept others waiting for {seconds:g} s and was rolled back",
        hint="keep write transactions short, or raise --transaction-hold",
    )
