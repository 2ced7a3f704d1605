"""Nodes and their log as plain values: what ``ha.core`` decides, with dictionaries for databases.

A :class:`Rows` stands for a SQLite file, a :class:`Node` for the engine over it. Whatever a node
decides, it lets ``ha.core`` decide: which messages count, where the tentative suffix stands, what
takes a transaction back, how a big one is cut into parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ha.core.changeset import (
    Change,
    ChangeSet,
    Kind,
    Operation,
    Origin,
    decode,
    encode,
)
from ha.core.fold import Seen, Verdict, judge
from ha.core.inverse import inverse_changes
from ha.core.parts import changes_of, encode_all, part_of
from ha.core.suffix import Suffix, may_be_under_way_with
from ha.core.values import Value

UUID = "the database"
COLUMNS = ("id", "u", "x")
LIMIT = 2_500
"""Bytes of a message: a row with a long text travels in parts."""
Row = tuple[Value, ...]
Op = tuple[str, str, int, int]
"""What a client does: a verb, a table, a key and a number."""
Table = dict[Value, Row]


class Rows:
    """Tables of (id, u, x): ``id`` is the primary key, ``u`` is UNIQUE."""

    def __init__(self, tables: dict[str, Table] | None = None) -> None:
        self.tables = tables if tables is not None else {}

    def copy(self) -> Rows:
        return Rows({name: dict(table) for name, table in self.tables.items()})

    def execute(self, op: Op) -> list[Change]:
        """Do what a client asks for, by the rules of SQL; its effects."""
        verb, name, key, n = op
        if verb in ("CREATE", "DROP"):
            sql = Change(Operation.SQL, name, command=f"{verb} TABLE {name}")
            return self.apply([sql]) if (name in self.tables) == (verb == "DROP") else []
        table = self.tables.get(name)
        if table is None:
            return []
        old = table.get(key)
        if verb == "INSERT":
            return [] if old is not None else self._replace(name, None, (key, None, n))
        if verb == "REPLACE":
            return self._replace(name, None, (key, n, "new"))
        if verb == "LONG":
            return self._replace(name, None, (key, n, "long" * 1_000))
        if old is None:
            return []
        if verb == "DELETE":
            return self._delete(name, old)
        _, u, x = old
        if verb == "ADD":
            return self._replace(name, old, (key, u, x + n if isinstance(x, int) else n))
        if verb == "MOVE":
            return self._replace(name, old, (n, u, x))
        return self._replace(name, old, (key, n, x))

    def apply(self, changes: Iterable[Change]) -> list[Change]:
        """Apply a message, by the rules of the fold; what it did."""
        done: list[Change] = []
        for change in changes:
            if change.operation is Operation.SQL:
                verb, _, name = change.command.split()
                if verb == "CREATE" and name not in self.tables:
                    self.tables[name] = {}
                elif verb == "DROP":
                    self.tables.pop(name, None)
                done.append(change)
                continue
            table = self.tables.get(change.table)
            if table is None:
                continue
            old = table.get(change.old_values[0]) if change.old_values else None
            if change.operation is not Operation.DELETE:
                assert change.new_values is not None
                done += self._replace(change.table, old, change.new_values)
            elif old is not None:
                done += self._delete(change.table, old)
        return done

    def _replace(self, name: str, old: Row | None, new: Row) -> list[Change]:
        """Put ``new`` in the place of ``old``; whatever clashes with it vanishes."""
        table = self.tables[name]
        clashes = [
            row
            for row in table.values()
            if row is not old and (row[0] == new[0] or (row[1] is not None and row[1] == new[1]))
        ]
        done = [effect for row in clashes for effect in self._delete(name, row)]
        if old is not None:
            del table[old[0]]
        table[new[0]] = new
        return [*done, _effect(name, old, new)]

    def _delete(self, name: str, row: Row) -> list[Change]:
        del self.tables[name][row[0]]
        return [_effect(name, row, None)]


def _effect(table: str, old: Row | None, new: Row | None) -> Change:
    operation = Operation.UPDATE
    if old is None:
        operation = Operation.INSERT
    elif new is None:
        operation = Operation.DELETE
    return Change(operation, table, COLUMNS, ("id",), old_values=old, new_values=new)


@dataclass(frozen=True)
class Message:
    """On its way, or in the log."""

    id: str
    payload: bytes


@dataclass
class Unit:
    """A transaction of a client, and what that was told of it: None while nothing was.
    ``changes``: it did something."""

    key: int
    node: str
    told: str | None = None
    changes: bool = False


@dataclass
class Waiting:
    """A transaction in an outbox. ``redone``: what applying it again did, None if it was executed
    where it stands."""

    transaction: int
    messages: list[Message]
    whole: ChangeSet
    redone: list[Change] | None = None


@dataclass
class Disk:
    """What survives a crash: the file, with its position and bookkeeping, and the outbox."""

    rows: Rows = field(default_factory=Rows)
    position: int = 0
    origins: dict[tuple[str, int], Seen] = field(default_factory=dict)
    parts: dict[tuple[str, int, int], dict[int, ChangeSet]] = field(default_factory=dict)
    outbox: list[Waiting] = field(default_factory=list)

    def fold(self, cs: ChangeSet, tentative: bool = False) -> tuple[Verdict, bool]:
        """Apply one message; the verdict, and whether it is whole."""
        key = (cs.node, cs.process_id)
        seen = self.origins.get(key, Seen(0, 0))
        verdict = judge(cs, UUID, seen, [])
        number = cs.origin.number if cs.origin else 0
        part = part_of(cs)
        if part is not None and not part.last:
            if verdict not in (Verdict.REPEATED, Verdict.FOREIGN):
                self.parts.setdefault((*key, number), {}).setdefault(part.index, cs)
            return verdict, False
        slices = [cs]
        if part is not None and verdict.counts:
            kept = self.parts.get((*key, number), {})
            slices = [*(kept[i] for i in sorted(kept)), cs]
            if len(slices) != part.count:
                verdict = Verdict.HOLE
        if verdict.counts and cs.kind is Kind.TRANSACTION and not tentative:
            self.rows.apply(change for changes in changes_of(slices) for change in changes)
        now = seen.after(cs, verdict)
        if now != seen:
            self.origins[key] = now
        for node, process_id, n in list(self.parts):
            if node == cs.node and (process_id != cs.process_id or n <= number):
                del self.parts[node, process_id, n]
        return verdict, True

    def undo(self) -> None:
        for waiting in reversed(self.outbox):
            done = waiting.whole.changes if waiting.redone is None else waiting.redone
            self.rows.apply(inverse_changes(done))

    def redo(self) -> None:
        for waiting in self.outbox:
            waiting.redone = self.rows.apply(waiting.whole.changes)


@dataclass
class Flight:
    """A batch under way: its units by the ids that decide about them, and the file as it would
    be."""

    ids: list[str]
    units: dict[str, Unit]
    rows: Rows
    number: int
    met: int = 0


class Node:
    """``asynchronous``: it answers before the log has it. ``inbox`` holds what was delivered."""

    def __init__(self, name: str, asynchronous: bool) -> None:
        self.name = name
        self.asynchronous = asynchronous
        self.disk = Disk()
        self.delivered = 0
        self.process_id = 0
        self.start(1)

    def start(self, process_id: int) -> None:
        """A new process on the same disk."""
        self.process_id = process_id
        self.number = 0
        self.inbox: list[tuple[int, Message]] = []
        self.flight: Flight | None = None
        self.under_way: dict[str, tuple[Unit, int]] = {}
        self.suffix = Suffix()
        self.delivered = self.disk.position

    # --- own transactions ---

    def execute(self, work: Sequence[tuple[Unit, list[Op]]]) -> list[Message]:
        """Run a batch; the messages to be published now. An outbox publishes by itself."""
        rows = self.disk.rows if self.asynchronous else self.disk.rows.copy()
        units: dict[str, Unit] = {}
        messages: list[Message] = []
        after = self.number if self.disk.outbox else None
        for unit, ops in work:
            changes = [change for op in ops for change in rows.execute(op)]
            if not changes:
                unit.told = "success"
                continue
            unit.changes = True
            whole, sent = self._encode(unit.key, changes, after)
            after = self.number
            if self.asynchronous:
                self._wait_for_log(sent, whole)
                unit.told = "success"
            else:
                messages += sent
                units[sent[-1].id] = unit
        if messages:
            self.flight = Flight([m.id for m in messages], units, rows, self.number)
        return messages

    def _encode(
        self, key: int, changes: list[Change], after: int | None
    ) -> tuple[ChangeSet, list[Message]]:
        self.number += 1
        origin = Origin(self.name, self.process_id, self.number)
        whole = ChangeSet(
            node=self.name,
            process_id=self.process_id,
            database_id="ha.db",
            changes=tuple(changes),
            origin=origin,
            uuid=UUID,
            base=self.disk.position,
            after=after if after else None,
            extra={"unit": key},
        )
        payloads = encode_all(whole, LIMIT)
        ids = [f"{origin.message_id}.{i}" for i in range(len(payloads))]
        if len(payloads) == 1:
            ids = [origin.message_id]
        return whole, [Message(*pair) for pair in zip(ids, payloads, strict=True)]

    def _wait_for_log(
        self, messages: list[Message], whole: ChangeSet, redone: list[Change] | None = None
    ) -> None:
        outbox = self.disk.outbox
        last = outbox[-1].transaction if outbox else 0
        outbox.append(Waiting(last + 1, messages, whole, redone))

    def to_publish(self) -> list[Message]:
        """What of the outbox may be under way at once."""
        waiting = [message for w in self.disk.outbox for message in w.messages]
        return [m for m in waiting if may_be_under_way_with(waiting[0].id, m.id)]

    def renumber(self) -> None:
        """Give all that waits new numbers."""
        former, self.disk.outbox = self.disk.outbox, []
        after: int | None = None
        for waiting in former:
            key = waiting.whole.extra["unit"]
            whole, messages = self._encode(key, list(waiting.whole.changes), after)
            after = self.number
            self._wait_for_log(messages, whole, waiting.redone)
        self.suffix.misplaced = False

    def void(self, id_: str) -> Message:
        """What takes the place of a message of which nothing was heard."""
        _, number = self.under_way[id_]
        origin = Origin(self.name, self.process_id, number)
        cs = ChangeSet(
            self.name, self.process_id, "ha.db", (), kind=Kind.VOID, origin=origin, uuid=UUID
        )
        return Message(id_, encode(cs))

    # --- the log ---

    def receive(self, entries: Sequence[tuple[int, Message]]) -> None:
        self.inbox += entries
        flight = self.flight
        if flight is not None:
            inbox = self.inbox
            while flight.met < len(inbox) and inbox[flight.met][1].id == flight.ids[flight.met]:
                flight.met += 1
                if flight.met == len(flight.ids):
                    self._commit(flight, inbox[flight.met - 1][0])
                    del inbox[: flight.met]
                    break
            else:
                if flight.met < len(inbox):
                    self.give_up()
        if self.flight is None:
            entries, self.inbox = self.inbox, []
            self._fold([e for e in entries if e[0] > self.disk.position])

    def _commit(self, flight: Flight, position: int) -> None:
        """The batch is what the log has next: nothing is to be applied."""
        disk = self.disk
        disk.rows, disk.position = flight.rows, position
        disk.origins[self.name, self.process_id] = Seen(flight.number, flight.number)
        disk.parts = {key: kept for key, kept in disk.parts.items() if key[0] != self.name}
        for unit in flight.units.values():
            unit.told = "success"
        self.flight = None

    def give_up(self) -> None:
        """Roll the batch back; the log decides about each message."""
        flight = self.flight
        assert flight is not None
        for id_, unit in flight.units.items():
            self.under_way[id_] = unit, int(id_.split(".")[0].rpartition("-")[2])
        self.flight = None

    def _fold(self, entries: list[tuple[int, Message]]) -> None:
        disk, suffix = self.disk, self.suffix
        suffix.in_place = True
        for sequence, message in entries:
            if sequence <= disk.position:
                continue
            waiting = next(
                (w for w in disk.outbox if message.id in [m.id for m in w.messages]), None
            )
            cs = decode(message.payload)
            if disk.outbox and suffix.must_go(
                waiting.transaction if waiting else None, disk.outbox[0].transaction
            ):
                disk.undo()
            tentative = bool(disk.outbox) and suffix.in_place
            verdict, whole = disk.fold(cs, tentative)
            if waiting is not None and whole:
                step = suffix.folded(verdict)
                if step.take_back:
                    disk.undo()
                if step.settled:
                    disk.outbox.remove(waiting)
            disk.position = sequence
            self._resolve(message.id, cs, verdict, whole)
        if not suffix.in_place:
            disk.redo()

    def _resolve(self, id_: str, cs: ChangeSet, verdict: Verdict, whole: bool) -> None:
        if not whole or id_ not in self.under_way:
            return
        unit, _ = self.under_way.pop(id_)
        counts = verdict.counts and cs.kind is Kind.TRANSACTION
        unit.told = "success" if counts else "not written"

    def committed(self) -> Rows:
        """The file without its tentative suffix."""
        disk = replace(self.disk, rows=self.disk.rows.copy())
        disk.undo()
        return disk.rows
