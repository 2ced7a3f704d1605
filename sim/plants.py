"""Planted bugs: small patches of ``ha/``, put in at run time, that the simulator must find.

Each replaces a piece of the source of one function. A patch whose piece is not there any more
fails aloud: then the plant must follow the code.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Patch:
    """``target``: ``module:function`` or ``module:Class.function``, where it is looked up."""

    target: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Plant:
    name: str
    what: str
    patches: tuple[Patch, ...]


class Outdated(Exception):
    """The patch does not fit the code any more."""


def _plant(name: str, what: str, *patches: tuple[str, str, str]) -> Plant:
    return Plant(name, what, tuple(Patch(*p) for p in patches))


_COMMITTER = "ha.engine.committer:Committer"
_READER = "ha.log.ordered:OrderedConsumer"
_FEED = "ha.log.ordered:_Feed"
_ELECTION = "ha.core.election:Election"
_FOLD = "ha.store.fold:Fold"
_APPLIER = "ha.store.apply:Applier"
_JUDGE = "ha.store.fold:judge"
_LEASE_WITHOUT_END = (
    (
        f"{_ELECTION}.holds",
        "self._is_mine and now < self.lease_until and not self._leaves",
        "self._is_mine and not self._leaves",
    ),
    (f"{_ELECTION}.wake_at", "self.lease_until if self.holds(now) else float", "float"),
    (f"{_ELECTION}.wake_at", "min(due, self.lease_until) if self.holds(now) else due", "due"),
)
PLANTS: tuple[Plant, ...] = (
    _plant(
        "own-message-out-of-order",
        "a node commits its own batch although another node's message came before it",
        (
            f"{_COMMITTER}._follows",
            """            while self._inbox and self._inbox[0].message_id == ids[len(met)]:
                met.append(self._inbox.popleft())
""",
            """            while any(e.message_id == ids[len(met)] for e in self._inbox):
                found = next(e for e in self._inbox if e.message_id == ids[len(met)])
                self._inbox.remove(found)
                met.append(found)
""",
        ),
        (
            f"{_COMMITTER}._follows",
            "if self._inbox or flight.refused",
            "if flight.refused",
        ),
    ),
    _plant(
        "position-outside-the-transaction",
        "the applied sequence is stored after the COMMIT of its effects",
        (
            f"{_COMMITTER}._commit",
            """            control.set_origin_seen(""",
            """            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            control.set_origin_seen(""",
        ),
    ),
    _plant(
        "ack-before-commit",
        "a client is answered when the broker has acknowledged, before its node has committed",
        (
            f"{_COMMITTER}._on_ack",
            "unit.acked = True\n",
            "unit.acked = True\n                unit.sequence = outcome.sequence\n"
            "                unit.done.set()\n",
        ),
    ),
    _plant(
        "repetition-counts",
        "a message whose number was seen before is applied again",
        (_JUDGE, "if cs.origin.number <= seen.number:", "if False:"),
    ),
    _plant(
        "hole-ignored",
        "a message counts although the one that it was built on is missing before it",
        (_JUDGE, "if cs.after is not None and seen.applied != cs.after:", "if False:"),
    ),
    _plant(
        "stale-index-rows",
        "rows of a full-text index count although another node changed it meanwhile",
        (_JUDGE, "if last.sequence > (cs.base or 0):", "if False:"),
    ),
    _plant(
        "unquoted-table",
        "names of tables are pasted into SQL as they are",
        (f"{_APPLIER}._plan", 'f"main.{quote(info.name)}"', 'f"main.{info.name}"'),
    ),
    _plant(
        "rivals-stay",
        "an INSERT that clashes on another UNIQUE is dropped, and its rival stays",
        (f"{_APPLIER}._plan", "INSERT OR REPLACE INTO", "INSERT OR IGNORE INTO"),
    ),
    _plant(
        "update-keeps-rivals",
        "an UPDATE that clashes on another UNIQUE is dropped, and its rival stays",
        (f"{_APPLIER}._plan", "UPDATE OR REPLACE", "UPDATE OR ABORT"),
    ),
    _plant(
        "clock-decides",
        "of two transactions the one with the later wall clock wins",
        (
            f"{_FOLD}._one",
            "        seen = self._seen(cs)\n",
            """        newest = getattr(self, "newest", 0)
        self.newest = max(newest, cs.timestamp_ns)
        if cs.timestamp_ns < newest:
            return Folded(entry, Verdict.APPLY, kind=cs.kind)
        seen = self._seen(cs)
""",
        ),
    ),
    _plant(
        "rowid-not-carried",
        "rows of tables without an INTEGER PRIMARY KEY get a rowid of each node's own",
        (
            f"{_APPLIER}._plan",
            "carry = info.rowid is not None and integer_key is None",
            "carry = False",
        ),
    ),
    _plant(
        "missing-row-not-inserted",
        "an UPDATE of a row that is gone is dropped",
        (
            f"{_APPLIER}._update",
            """            if rowid is None:
                return self._insert(plan, new, new_rowid)
""",
            """            if rowid is None:
                return False
""",
        ),
        (
            f"{_APPLIER}._update",
            """        if not self._connection.changes():
            return self._insert(plan, new, new_rowid)
""",
            "",
        ),
    ),
    _plant(
        "blob-as-text",
        "a BLOB arrives as the base64 text that carries it",
        (
            "ha.core.values:_decode_special",
            """    if letter == _BLOB:
        return base64.b64decode(v, validate=True)
""",
            """    if letter == _BLOB:
        return v
""",
        ),
    ),
    _plant(
        "integers-lose-digits",
        "integers beyond 2^53 pass through a float",
        (
            f"{_APPLIER}._run_row",
            "        try:\n",
            "        values = tuple(int(float(v)) if type(v) is int and 2**53 < v < 2**62 else v"
            " for v in values)\n        try:\n",
        ),
    ),
    _plant(
        "sequences-forgotten",
        "what AUTOINCREMENT gave away is not replicated",
        (f"{_APPLIER}.apply", "if change_set.sequences:", "if False:"),
    ),
    _plant(
        "triggers-fire-again",
        "triggers run on every node, although their effects are in the message",
        (
            f"{_APPLIER}.__init__",
            "apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0",
            "apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1",
        ),
    ),
    _plant(
        "cascades-run-again",
        "foreign keys act on every node, although their effects are in the message",
        (f"{_APPLIER}.__init__", "foreign_keys = OFF", "foreign_keys = ON"),
    ),
    _plant(
        "parts-one-by-one",
        "each part of a big transaction is applied as it comes",
        (
            f"{_FOLD}._one",
            "                self._keep_part(entry, cs, part.index)\n",
            "                self._keep_part(entry, cs, part.index)\n"
            "                self._applier.apply(cs, self._identify)\n",
        ),
    ),
    _plant(
        "missing-part-ignored",
        "a big transaction is applied although one of its parts was lost",
        (f"{_FOLD}._all_parts", "if kept != count - 1:", "if False:"),
    ),
    _plant(
        "txseq-not-waited-for",
        "a client that presents its txseq is served an older state",
        (
            "ha.engine.database:Database.wait_for",
            "        committer = self.committer\n",
            "        committer = self.committer\n        return\n",
        ),
    ),
    _plant(
        "doubt-is-denied",
        "'not_written' is said when the outcome is not known",
        (f"{_COMMITTER}._doubt", "Code.OUTCOME_UNKNOWN", "Code.NOT_WRITTEN"),
    ),
    _plant(
        "void-under-another-id",
        "a void message takes neither the id nor the number of what it replaces",
        (
            f"{_COMMITTER}._void",
            "Origin(self._options.node, self.process_id, unit.number)",
            "Origin(self._options.node, self.process_id, 0)",
        ),
        (f"{_COMMITTER}._void", "Outgoing(id_, ", 'Outgoing(id_ + "-void", '),
    ),
    _plant(
        "process-without-identity",
        "a node that starts again numbers its messages from 1 under its old name",
        (
            f"{_COMMITTER}.__init__",
            "self.process_id = runtime.random.getrandbits(53)",
            "self.process_id = 7",
        ),
    ),
    _plant(
        "subscription-off-by-one",
        "a node that starts again misses the first message after its position",
        (
            f"{_COMMITTER}._follow",
            "self._log.subscribe(max(after, self._fold.position.applied))",
            "self._log.subscribe(max(after, self._fold.position.applied)"
            " + (self._fold.position.applied > 50))",
        ),
    ),
    _plant(
        "outbox-row-early",
        "with asynchronous replication a message leaves the outbox when it has been sent",
        (
            "ha.engine.relay:Relay._send",
            "        self._sent = next_ones[-1].position\n",
            """        self._sent = next_ones[-1].position
        import apsw
        reader = self._reader.raw
        db = apsw.Connection(reader.filename, vfs=reader.open_vfs)
        try:
            db.execute("DELETE FROM ha_outbox WHERE position <= ?", (self._sent,))
            self.outbox.count(self._reader)
        except apsw.BusyError:
            pass
        finally:
            db.close()
""",
        ),
    ),
    _plant(
        "suffix-taken-back-forwards",
        "transactions that wait for the log are taken back first one first",
        ("ha.store.outbox:Outbox.undo", '"DESC"', '"ASC"'),
    ),
    _plant(
        "changes-taken-back-forwards",
        "the changes of a transaction are taken back in the order in which they were made",
        (
            "ha.store.outbox:Outbox.undo",
            "for part in reversed(slices) for change in inverse_changes(part)",
            "for part in slices for change in reversed(list(inverse_changes(part)))",
        ),
    ),
    _plant(
        "dead-letter-lost",
        "a message that nodes are let pass over is not kept",
        (f"{_FOLD}._skip", '        self._bury(entry, "skipped")\n', ""),
    ),
    _plant(
        "dead-letter-passed-by",
        "a node goes on behind a message that it cannot read, and says nothing",
        (
            f"{_FOLD}._one",
            "        cs = decode(entry.payload)\n",
            """        try:
            cs = decode(entry.payload)
        except FormatError:
            return Folded(entry, Verdict.SKIPPED)
""",
        ),
    ),
    _plant(
        "snapshot-off-by-one",
        "who begins with a snapshot leaves out the message behind it",
        (
            "ha.engine.snapshots:settle_position",
            """        if position.applied != info.sequence:
            control.set_position(connection, subject, info.sequence, None)
""",
            "        control.set_position(connection, subject, info.sequence + 1, None)\n",
        ),
    ),
    _plant(
        "snapshot-says-more-than-it-has",
        "a snapshot is taken before, and its position looked up after, a pause",
        (
            "ha.engine.snapshots:settle_position",
            "position.applied != info.sequence",
            "True",
        ),
        (
            "ha.engine.snapshots:publish_snapshot",
            '"seq": str(position.applied)',
            '"seq": str((await log.state()).subject_last)',
        ),
        (
            "ha.engine.snapshots:publish_snapshot",
            'headers["digest"] = position.digest.hex()',
            "pass",
        ),
    ),
    _plant(
        "forgotten-unnoticed",
        "a node goes on behind messages that the log has let go of, as if there had been none",
        ("ha.engine.recovery:_serves", "info is not None and ", "False and info is not None and "),
        ("ha.engine.recovery:_forgotten_position", "best if best > applied else None", "None"),
    ),
    _plant(
        "two-leaders",
        "a leader that was cut off goes on when its lease is over, and asks no log whether it may",
        *_LEASE_WITHOUT_END,
        (
            "ha.engine.mandate:Rule.is_open",
            "return self.mandate.held == term.number and self.is_ours(term)",
            "return self.mandate.held is not None",
        ),
    ),
    _plant(
        "missing-fence",
        "late messages of a leader that was replaced count",
        ("ha.core.fold:Term.fences", "        term = cs.term or 0\n", "        return False\n"),
    ),
    _plant(
        "ack-before-fencing",
        "a leader answers when the broker has a write, before the log says whether it counts",
        (
            f"{_COMMITTER}._on_ack",
            "unit.acked = True\n",
            "unit.acked = True\n                if self.rule.mandate is not None:\n"
            "                    unit.sequence = outcome.sequence\n"
            "                    unit.done.set()\n",
        ),
    ),
    _plant(
        "gap-unnoticed",
        "a reader does not count what its consumer delivers",
        (f"{_FEED}._on_message", "if number != self.received + 1:", "if number <= self.received:"),
    ),
    _plant(
        "reader-begins-late",
        "a consumer that is made anew leaves out a message",
        (
            f"{_READER}._start",
            'config["opt_start_seq"] = position + 1',
            'config["opt_start_seq"] = position + 2 if position else 1',
        ),
    ),
    _plant(
        "history-of-one-copy",
        "history ends where the copy of one server of the cluster does",
        (
            "ha.log.jetstream:JetStreamLog.history",
            "for _ in range(_BY_LEADER):",
            "return\n            for _ in range(_BY_LEADER):",
        ),
    ),
    _plant(
        "read-without-asking",
        "a leader that was cut off trusts an old lease, and reads without asking whether it leads",
        *_LEASE_WITHOUT_END,
        (
            "ha.engine.elected:Elected._confirm",
            "        wanted = election.beat + 1\n",
            "        return\n        wanted = election.beat + 1\n",
        ),
    ),
    _plant(
        "refusal-is-success",
        "a client whose message the broker refused is told that it is written",
        (
            f"{_COMMITTER}._settle",
            "unit.fail(unit.refused)",
            "unit.succeed(self.applied + 1)",
        ),
    ),
)


def find(name: str) -> Plant:
    """Raises KeyError."""
    for plant in PLANTS:
        if plant.name == name:
            return plant
    raise KeyError(name)


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """The product with a bug in it. Raises Outdated."""
    with ExitStack() as stack:
        by_target: dict[str, list[Patch]] = {}
        for patch in plant.patches:
            by_target.setdefault(patch.target, []).append(patch)
        for target, patches in by_target.items():
            holder, name = _resolve(target)
            before = holder.__dict__[name]
            setattr(holder, name, _changed(target, getattr(holder, name), patches))
            stack.callback(setattr, holder, name, before)
        yield


def _resolve(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    holder: Any = import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        holder = getattr(holder, part)
    return holder, name


@cache
def _source(target: str) -> str:
    """As it was when the module was read: the file may have been changed since."""
    holder, name = _resolve(target)
    return inspect.getsource(getattr(holder, name))


def read_sources() -> None:
    """All that plants change, now: later a file may not be what runs any more."""
    for plant in PLANTS:
        for patch in plant.patches:
            _source(patch.target)


def _changed(target: str, function: Any, patches: list[Patch]) -> Any:
    """The function, compiled anew from its changed source."""
    source = _source(target)
    for patch in patches:
        if not patch.old or source.count(patch.old) != 1:
            raise Outdated(f"{patch.target} has {patch.old!r} {source.count(patch.old)} times")
        source = source.replace(patch.old, patch.new)
    namespace: dict[str, Any] = {}
    code = compile(
        textwrap.dedent(source),
        f"<planted {function.__qualname__}>",
        "exec",
        flags=__future__.annotations.compiler_flag,
    )
    exec(code, function.__globals__, namespace)  # the source of a function of ours
    return namespace[function.__name__]
