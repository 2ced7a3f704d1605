"""The fold: a file, and the messages of its log applied to it, in order.

``fold(n)`` is what this makes of the database's base and the messages up to ``n``. It is a
function of them alone: no clock, no node, no luck. Rules for rows stand in
:mod:`ha.store.apply`, those for whole messages in :mod:`ha.core.fold`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import apsw

from ha.core.changeset import Change, ChangeSet, FormatError, Identify, Kind, decode
from ha.core.errors import Code, HaError
from ha.core.fold import Seen, Verdict, VirtualSeen, judge
from ha.core.parts import changes_of, part_of
from ha.core.suffix import Suffix
from ha.log.api import Entry
from ha.store import control
from ha.store.apply import Applied, Applier
from ha.store.connection import Connection
from ha.store.outbox import Outbox
from ha.store.parse import CONTROL_TABLES


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of one message. ``schema``: it may have changed the schema; ``whole``: it is
    no part that waits for its last one."""

    entry: Entry
    verdict: Verdict
    reason: str = ""
    schema: bool = False
    kind: Kind = Kind.TRANSACTION
    applied_changes: int = 0
    whole: bool = True


class Halt(Exception):
    """A message that no rule can take: the fold stands before it until it is skipped."""

    def __init__(self, entry: Entry, reason: str, before: list[Folded]) -> None:
        super().__init__(reason)
        self.entry = entry
        self.reason = reason
        self.before = before


class Gap(Exception):
    """A message was written by a node that had applied one which never came here, up to
    ``base``: the stream had forgotten it. Nothing that follows can be applied."""

    def __init__(self, base: int, words: str = "") -> None:
        super().__init__(words or f"the stream no longer holds what was written up to {base}")
        self.base = base
        self.before: list[Folded] = []


class Rebased(Gap):
    """At ``base`` an operator made another file the base of the log: only a snapshot has it."""

    def __init__(self, base: int) -> None:
        super().__init__(base, f"the database was given a new base at {base}")


class InterceptorError(Exception):
    """An interceptor raised: the node halts before the message, as for one it cannot read."""


@dataclass(slots=True)
class Intercepted:
    """What an interceptor sees of a transaction. ``changes`` may be changed in place."""

    sequence: int
    node: str
    database_id: str
    time_ns: int
    changes: list[Change]


class Interceptor(Protocol):
    """Application-specific rules of the fold; must be a pure function of its arguments."""

    def before_apply(self, changeset: Intercepted, connection: apsw.Connection) -> bool | None:
        """True: do not apply it."""
        ...

    def after_apply(
        self, changeset: Intercepted, connection: apsw.Connection, error: Exception | None
    ) -> None:
        """``error`` is why it could not be applied. Return: swallow it. Raise: keep it."""
        ...


class Fold:
    """Writes foreign messages into a file. ``identify``: for messages of existing nodes."""

    def __init__(
        self,
        connection: Connection,
        subject: str,
        identify: Identify,
        interceptor: Interceptor | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._connection = connection
        self._subject = subject
        self._identify = identify
        self._applier = Applier(connection.raw, CONTROL_TABLES)
        self._interceptor = interceptor
        self._outbox = outbox
        self.suffix = Suffix()
        self.redone = 0
        self.position = control.position(connection, subject)
        self.term = control.term(connection)
        """The highest term of a leader in the log up to the position."""
        self._term = self.term
        self._uuid = self.position.uuid
        self.trusted = 0
        """Bases up to here are known not to tell of a gap."""
        self._current = self.position.applied
        self._origins: dict[tuple[str, int], Seen] = {}
        """What the entries of one :meth:`apply` changed of ``ha_origins``, written at its end."""
        self._parts = bool(connection.execute("SELECT count(*) FROM ha_parts"))
        self._halted = bool(
            connection.execute("SELECT count(*) FROM ha_dead_letters WHERE state = 'halted'")
        )

    @property
    def connection(self) -> Connection:
        return self._connection

    def apply(
        self, entries: Sequence[Entry], skipped: frozenset[int] = frozenset()
    ) -> list[Folded]:
        """Apply entries beyond the position, in one SQLite transaction.

        ``skipped`` holds sequences that a SKIP message names. Raises Halt when it meets a
        message that cannot be taken, Gap when messages before it are missing: those that it
        could take are then applied and committed. Raises HaError when SQLite cannot commit:
        nothing has changed then.
        """
        connection = self._connection
        out: list[Folded] = []
        halt: Halt | Gap | None = None
        try:
            connection.execute("BEGIN IMMEDIATE")
            last: Entry | None = None
            self._uuid = self.position.uuid
            done = self._look_again()
            self._current = max(self.position.applied, done)
            self.suffix.in_place = True
            self._term = self.term
            self._origins.clear()
            for entry in entries:
                if entry.sequence <= self.position.applied:
                    continue
                if entry.sequence <= done:
                    out.append(self._folded_before(entry))
                    continue
                try:
                    folded = self._next(entry, entry.sequence in skipped)
                except (FormatError, InterceptorError) as error:
                    self._bury(entry, "halted", str(error))
                    self._halted = True
                    halt = Halt(entry, str(error), out)
                    break
                except Gap as gap:
                    gap.before = out
                    halt = gap
                    break
                out.append(folded)
                if not folded.verdict.counts:
                    control.set_ignored(connection, entry.sequence, folded.verdict.value)
                if self._halted:
                    self._exhume(entry)
                last = entry
                self._current = entry.sequence
            if not self.suffix.in_place and self._outbox is not None:
                self.redone += self._outbox.redo(connection, self._applier)
            for (node, process_id), seen in self._origins.items():
                control.set_origin_seen(connection, node, process_id, seen.number, seen.applied)
            if self._term != self.term:
                control.set_term(connection, self._term)
            if last is not None:
                control.advance(
                    connection, self._subject, last.sequence, last.time_ns, last.payload
                )
            connection.execute("COMMIT")
        except BaseException as error:
            connection.rollback()
            if self._outbox is not None:
                self._outbox.rolled_back(connection)
            if isinstance(error, Exception) and not isinstance(error, HaError):
                raise connection.translated(error) from error
            raise
        self.refresh()
        self.term = self._term
        if halt is not None:
            raise halt
        return out

    def _look_again(self) -> int:
        """The position in the file: a COMMIT that SQLite called failed may stand there, so that it
        is further on than we know."""
        connection = self._connection
        found = control.position(connection, self._subject)
        done = found.applied
        if done > self.position.applied:
            self._uuid = found.uuid
            self.term = control.term(connection)
            if self._outbox is not None:
                self._outbox.count(connection)
        return done

    def _folded_before(self, entry: Entry) -> Folded:
        """What became of a message that such a COMMIT took."""
        verdict = self._connection.execute(
            "SELECT verdict FROM ha_ignored WHERE sequence = ?", (entry.sequence,)
        )
        try:
            cs = decode(entry.payload)
            part = part_of(cs)
        except FormatError:  # it was skipped
            return Folded(entry, Verdict.SKIPPED)
        return Folded(
            entry,
            Verdict(verdict) if verdict else Verdict.APPLY,
            schema=True,
            kind=cs.kind,
            whole=part is None or part.last,
        )

    def refresh(self) -> None:
        """Read the position again, after another connection moved it."""
        self.position = control.position(self._connection, self._subject)

    def moved(self, sequence: int, payload: bytes) -> None:
        """The executor committed messages of ours up to ``sequence``."""
        self.position = control.Position(
            sequence, self.position.uuid, self.position.epoch, control.digest_of(payload)
        )

    # --- the tentative suffix --------------------------------------------------------

    def _next(self, entry: Entry, skipped: bool) -> Folded:
        """Apply one message under the suffix, if there is one."""
        outbox = self._outbox
        connection = self._connection
        if outbox is None or not outbox.waits(connection):
            return self._skip(entry) if skipped else self._one(entry)
        suffix = self.suffix
        transaction = outbox.transaction_of(connection, entry.message_id)
        # What an interceptor makes of a message is not what executing it did.
        ours = transaction if self._interceptor is None else None
        if suffix.must_go(ours, outbox.first(connection)):
            outbox.undo(connection, self._applier)
        folded = self._skip(entry) if skipped else self._one(entry, tentative=suffix.in_place)
        if transaction is None or not folded.whole:
            return folded
        step = suffix.folded(folded.verdict)
        if step.take_back:
            outbox.undo(connection, self._applier)
        if step.settled:
            outbox.remove(connection, transaction)
        return folded

    # --- one message -----------------------------------------------------------------

    def _skip(self, entry: Entry) -> Folded:
        self._bury(entry, "skipped")
        return Folded(entry, Verdict.SKIPPED)

    def _one(self, entry: Entry, tentative: bool = False) -> Folded:
        """``tentative``: its effects are in the file already."""
        connection = self._connection
        cs = decode(entry.payload)
        if cs.kind is Kind.BASE:
            return self._base(entry, cs)
        foreign = cs.uuid is not None and self._uuid is not None and cs.uuid != self._uuid
        known = max(self._current, self.trusted)
        # A base that does not stand before the message is of a log whose end was lost.
        if cs.base is not None and known < cs.base < entry.sequence and not foreign:
            raise Gap(cs.base)
        if cs.kind is Kind.SKIP:
            return Folded(entry, Verdict.APPLY, kind=cs.kind)
        seen = self._seen(cs)
        verdict = judge(cs, self._uuid, seen, self._virtual_seen(cs), self._term)
        part = part_of(cs)
        if part is not None and not part.last:
            if verdict not in (Verdict.REPEATED, Verdict.FOREIGN, Verdict.FENCED):
                self._keep_part(entry, cs, part.index)
            return Folded(entry, verdict, kind=cs.kind, whole=False)
        if verdict is not Verdict.FOREIGN and verdict is not Verdict.FENCED:
            self._term = self._term.after(cs)
        reason = ""
        count = 0
        if verdict.counts and tentative and cs.kind is Kind.TRANSACTION:
            if part is not None and self._all_parts(cs, part.count) is None:
                verdict, reason = Verdict.HOLE, "a part is missing"
            else:
                self._remember_virtual(entry, cs)
        elif verdict.counts and cs.kind is Kind.TRANSACTION:
            verdict, reason, count = self._effects(entry, cs, part.count if part else 0)
        now = seen.after(cs, verdict)
        if now != seen:
            self._origins[cs.node, cs.process_id] = now
        if self._parts and cs.node:
            self.drop_parts(
                connection, cs.node, cs.process_id, cs.origin.number if cs.origin else 0
            )
            self._parts = bool(connection.execute("SELECT count(*) FROM ha_parts"))
        schema = part is not None or any(c.command for c in cs.changes)
        return Folded(entry, verdict, reason, schema=schema, kind=cs.kind, applied_changes=count)

    def _effects(self, entry: Entry, cs: ChangeSet, parts: int) -> tuple[Verdict, str, int]:
        earlier: Iterable[tuple[Change, ...]] = ()
        if parts:
            slices = self._all_parts(cs, parts)
            if slices is None:
                return Verdict.HOLE, "a part is missing", 0
            earlier = changes_of(slices)
            cs = cs.with_changes(())
        if self._interceptor is None:
            applied = self._applier.apply(cs, self._identify, earlier)
            verdict = Verdict.APPLY if applied.applied else Verdict.FAILED
        else:
            self._connection.execute("SAVEPOINT ha_message")
            verdict, applied = self._intercept(self._interceptor, entry, cs, earlier)
            if not verdict.counts:
                self._connection.execute("ROLLBACK TO ha_message")
            self._connection.execute("RELEASE ha_message")
        if verdict.counts:
            self._remember_virtual(entry, cs)
        return verdict, applied.reason, applied.rows

    def _remember_virtual(self, entry: Entry, cs: ChangeSet) -> None:
        number = cs.origin.number if cs.origin else 0
        for name in cs.virtual:
            control.set_virtual(
                self._connection, name, entry.sequence, cs.node, cs.process_id, number
            )

    def _intercept(
        self,
        interceptor: Interceptor,
        entry: Entry,
        cs: ChangeSet,
        earlier: Iterable[tuple[Change, ...]],
    ) -> tuple[Verdict, Applied]:
        raw = self._connection.raw
        changes = [c for part in earlier for c in part] + list(cs.changes)
        view = Intercepted(entry.sequence, cs.node, cs.database_id, entry.time_ns, changes)
        error: HaError | None = None
        try:
            if interceptor.before_apply(view, raw):
                return Verdict.INTERCEPTED, Applied(False, "an interceptor said so")
            applied = self._applier.apply(cs.with_changes(tuple(view.changes)), self._identify)
            if not applied.applied:
                error = HaError(Code.NOT_APPLIED, applied.reason, sequence=entry.sequence)
            interceptor.after_apply(view, raw, error)
        except FormatError:
            raise
        except Exception as problem:
            if problem is error:
                return Verdict.FAILED, Applied(False, problem.message)
            raise InterceptorError(f"interceptor: {type(problem).__name__}: {problem}") from problem
        return Verdict.APPLY, applied

    def _base(self, entry: Entry, cs: ChangeSet) -> Folded:
        if self._uuid is None:
            if cs.uuid is None:
                raise FormatError("a base without the database's uuid")
            self._connection.execute("UPDATE ha_log SET uuid = ? WHERE id = 1", (cs.uuid,))
            self._uuid = cs.uuid
        if cs.extra.get("rebase"):
            raise Rebased(entry.sequence)
        verdict = Verdict.APPLY if cs.uuid == self._uuid else Verdict.FOREIGN
        return Folded(entry, verdict, kind=Kind.BASE)

    def _seen(self, cs: ChangeSet) -> Seen:
        if cs.origin is None:
            return Seen(0, 0)
        key = (cs.node, cs.process_id)
        known = self._origins.get(key)
        if known is None:
            seen = control.origin_seen(self._connection, *key)
            known = Seen(seen.number, seen.applied)
        return known

    def _virtual_seen(self, cs: ChangeSet) -> list[VirtualSeen]:
        return [
            VirtualSeen(*row)
            for name in cs.virtual
            for row in self._connection.raw.execute(
                "SELECT sequence, node, process_id, number FROM ha_virtual WHERE name = ?", (name,)
            )
        ]

    # --- parts -----------------------------------------------------------------------

    def _keep_part(self, entry: Entry, cs: ChangeSet, index: int) -> None:
        number = cs.origin.number if cs.origin else 0
        self._connection.execute(
            "INSERT OR IGNORE INTO ha_parts VALUES (?, ?, ?, ?, ?)",
            (cs.node, cs.process_id, number, index, entry.payload),
        )
        self._parts = True

    def _all_parts(self, cs: ChangeSet, count: int) -> Iterator[ChangeSet] | None:
        """The parts in order, this last one included; None if one is missing."""
        key = (cs.node, cs.process_id, cs.origin.number if cs.origin else 0)
        where = "WHERE node = ? AND process_id = ? AND number = ?"
        kept = self._connection.execute(f"SELECT count(*) FROM ha_parts {where}", key)
        if kept != count - 1:
            return None

        def each() -> Iterator[ChangeSet]:
            for index in range(count - 1):
                payload = self._connection.execute(
                    f"SELECT payload FROM ha_parts {where} AND part = ?", (*key, index)
                )
                yield decode(payload)
            yield cs

        return each()

    def drop_parts(self, connection: Connection, node: str, process_id: int, number: int) -> None:
        """A whole message of a node ends what it, or an earlier process of it, left in parts. In
        the transaction that is open on ``connection``."""
        if self._parts:
            connection.execute(
                "DELETE FROM ha_parts WHERE node = ? AND (process_id <> ? OR number <= ?)",
                (node, process_id, number),
            )

    # --- dead letters ----------------------------------------------------------------

    def _exhume(self, entry: Entry) -> None:
        """What halted us has been applied after all."""
        self._connection.execute(
            "UPDATE ha_dead_letters SET state = 'applied' WHERE sequence = ? AND state = 'halted'",
            (entry.sequence,),
        )
        self._halted = False

    def _bury(self, entry: Entry, state: str, error: str = "") -> None:
        self._connection.execute(
            "INSERT INTO ha_dead_letters VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET state = excluded.state, error = iif(excluded.error = '', error, excluded.error)",
            (entry.sequence, entry.payload, error, entry.time_ns, state),
        )
