"""The fold, once more: an independent implementation over Python's own ``sqlite3``.

It shares no code with ``ha/``, not even SQLite's library: it reads the JSON of the messages and
follows docs/spec.md, sections 3, 6 and 7. Where it and a node differ, one of them is wrong.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from sim.content import Content, quote, read_content

Row = tuple[Any, ...]
MAX_ROWID = 2**63 - 1
_TOKEN = re.compile(r"(?<![A-Za-z0-9+/])tok\d+x(?![A-Za-z0-9+/])")
"""Not within a word: BLOBs are in base64, and will say anything in time."""


class Broken(Exception):
    """A message that no rule takes: every node stands before it."""


@dataclass(slots=True)
class Meaning:
    """What the oracle found of one message. ``tokens``: marks of the clients' writes that
    appear first here; ``tables``: those that it names."""

    sequence: int
    node: str
    process_id: int
    number: int | None
    kind: str
    verdict: str
    tokens: frozenset[str] = frozenset()
    tables: frozenset[str] = frozenset()
    term: int = 0

    @property
    def counts(self) -> bool:
        return self.verdict == "apply"


class _Raw:
    """TEXT that is not UTF-8."""

    def __init__(self, data: bytes) -> None:
        self.data = data


@dataclass(slots=True)
class _Table:
    name: str
    columns: list[str]
    declared: list[str]
    key: list[str]
    collations: list[str]
    without_rowid: bool
    rowid: str | None
    integer_key: str | None


@dataclass(slots=True)
class _Row:
    """A row change, its columns cut to what the table has. ``whole`` is as it came."""

    table: _Table
    names: list[str]
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    old_rowid: int | None
    new_rowid: int | None
    mode: str


class Oracle:
    """``identify``: how rows of messages that do not say so are found again."""

    def __init__(self, identify: str = "pk") -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.text_factory = bytes
        self.db.execute("PRAGMA foreign_keys = OFF")
        self.db.execute("PRAGMA ignore_check_constraints = ON")
        self.db.execute("PRAGMA legacy_alter_table = OFF")
        self.identify = identify
        self.applied = 0
        self.uuid: str | None = None
        self.origins: dict[tuple[str, int], tuple[int, int]] = {}
        self.virtual: dict[str, tuple[int, str, int, int]] = {}
        self.term: tuple[int, str, int] = (0, "", 0)
        """The highest term of a leader so far, and the process that brought it."""
        self.parts: dict[tuple[str, int, int, int], dict[str, Any]] = {}
        self.skipped: frozenset[int] = frozenset()
        self.bases: Mapping[str, bytes] = {}
        """Files that were made the base in the middle of the log, by their digest there."""
        self._triggers: list[bytes] = []

    def content(self) -> Content:
        return read_content(self.db)

    def content_with(self, waiting: Sequence[bytes]) -> Content:
        """The present state, and then transactions that the log does not have yet."""
        if not waiting:
            return self.content()
        virtual = dict(self.virtual)
        self.db.execute("SAVEPOINT suffix")
        try:
            parts: list[dict[str, Any]] = []
            for payload in waiting:
                parts.append(_decode(payload))
                ours = parts[-1]["ha"]
                index, count = ours.get("part", (0, 1))
                if index + 1 == count:
                    changes = _join(parts) if count > 1 else parts[0].get("changes") or []
                    self._transaction(Meaning(0, "", 0, None, "tx", ""), changes, ours)
                    parts.clear()
            return self.content()
        finally:
            self.db.execute("ROLLBACK TO suffix")
            self.db.execute("RELEASE suffix")
            self.virtual = virtual

    def close(self) -> None:
        self.db.close()

    # --- a message -------------------------------------------------------------------

    def apply(self, sequence: int, payload: bytes) -> Meaning:
        """Raises Broken, unless ``skipped`` names the sequence."""
        try:
            message = _decode(payload)
        except Broken:
            if sequence not in self.skipped:
                raise
            self.applied = sequence
            return Meaning(sequence, "", 0, None, "?", "skipped")
        ours = message.get("ha") or {}
        kind = ours.get("kind", "tx")
        node, process = message.get("node", ""), message.get("process_id", 0)
        meaning = Meaning(sequence, node, process, ours.get("n"), kind, "apply")
        if kind == "base":
            if self.uuid is None:
                self.uuid = ours["uuid"]
            meaning.verdict = "apply" if ours.get("uuid") == self.uuid else "foreign"
            if ours.get("rebase") and meaning.verdict == "apply":
                self._rebase(self.bases[ours["digest"]], sequence)
                meaning.tables = frozenset({"(schema)"})
        elif kind == "skip":
            pass
        else:
            self._message(meaning, message, ours)
        self.applied = sequence
        return meaning

    def is_new_base(self, payload: bytes) -> bool:
        """Does it make a file the base, so that nothing before it matters any more?"""
        try:
            ours = _decode(payload).get("ha") or {}
        except Broken:
            return False
        is_base = ours.get("kind") == "base" and bool(ours.get("rebase"))
        return is_base and ours.get("uuid") == self.uuid

    def _rebase(self, base: bytes, sequence: int) -> None:
        """Go on from a file. What it says of positions beyond this one was another log's."""
        with closing(sqlite3.connect(":memory:")) as source:
            source.deserialize(base)
            source.backup(self.db)
        self.origins = {
            (node.decode(), process): (number, applied)
            for node, process, number, applied in self.db.execute(
                "SELECT node, process_id, number, applied FROM ha_origins"
            )
        }
        self.virtual = {
            name.decode(): (min(last, sequence), node.decode(), process, number)
            for name, last, node, process, number in self.db.execute(
                "SELECT name, sequence, node, process_id, number FROM ha_virtual"
            )
        }
        self.term = next(
            (
                (number, node.decode(), process)
                for number, node, process in self.db.execute(
                    "SELECT number, node, process_id FROM ha_term"
                )
            ),
            (0, "", 0),
        )
        self.parts.clear()

    def _message(self, meaning: Meaning, message: dict[str, Any], ours: dict[str, Any]) -> None:
        node, process, number = meaning.node, meaning.process_id, meaning.number
        seen, counted = self.origins.get((node, process), (0, 0))
        verdict = meaning.verdict = self._judge(meaning, ours, seen, counted)
        index, count = ours.get("part", (0, 1))
        if index + 1 < count:
            if verdict not in ("repeated", "foreign", "fenced"):
                self.parts.setdefault((node, process, number or 0, index), message)
            meaning.kind = "part"
            return
        meaning.term = ours.get("term") or 0
        if meaning.term > self.term[0] and verdict != "foreign":
            self.term = (meaning.term, node, process)
        changes = message.get("changes") or []
        if count > 1:
            earlier = [self.parts.get((node, process, number or 0, i)) for i in range(count - 1)]
            whole = None if None in earlier else _join([*earlier, message])
            if whole is None and verdict == "apply":
                verdict = "hole"
            changes = whole or []
        meaning.tokens, _ = _marks(changes)
        if verdict == "apply" and meaning.kind == "tx":
            verdict = self._transaction(meaning, changes, ours)
        meaning.verdict = verdict
        if number is not None and verdict not in ("repeated", "foreign"):
            if verdict == "apply" and meaning.kind == "tx":
                counted = number
            self.origins[node, process] = (number, counted)
        if node:
            self.parts = {
                k: p
                for k, p in self.parts.items()
                if k[0] != node or (k[1] == process and k[2] > (number or 0))
            }

    def _judge(self, meaning: Meaning, ours: dict[str, Any], seen: int, counted: int) -> str:
        uuid = ours.get("uuid")
        if uuid is not None and self.uuid is not None and uuid != self.uuid:
            return "foreign"
        term = ours.get("term") or 0
        if term < self.term[0]:
            return "fenced"
        if 0 < term == self.term[0] and (meaning.node, meaning.process_id) != self.term[1:]:
            return "fenced"
        if meaning.number is None:
            return "apply"
        if meaning.number <= seen:
            return "repeated"
        if "after" in ours and counted != ours["after"]:
            return "hole"
        after = ours.get("after")
        for name in ours.get("virtual", ()):
            last = self.virtual.get(name)
            if last is None:
                continue
            own = (last[1], last[2]) == (meaning.node, meaning.process_id)
            if own and after is not None and last[3] <= after:
                continue  # it ran on that one's effects
            if last[0] > (ours.get("base") or 0):
                return "stale"
        return "apply"

    def _transaction(
        self, meaning: Meaning, changes: list[dict[str, Any]], ours: dict[str, Any]
    ) -> str:
        meaning.tokens, meaning.tables = _marks(changes)
        self.db.execute("SAVEPOINT message")
        try:
            mode = ours.get("identify", "pk") if ours else self.identify
            wanted = ours.get("sequences", [])
            before = {name: self._sequence(name) for name, _, _ in wanted}
            for change in changes:
                if change["operation"] == "SQL":
                    self._triggers_back()
                    self._sql(change["command"], _values(change, "args"))
                elif change["operation"] != "CUSTOM":
                    self._change(change, mode, existing=not ours)
            self._set_sequences(wanted, before)
        except _Ignored:
            self._triggers.clear()
            self.db.execute("ROLLBACK TO message")
            self.db.execute("RELEASE message")
            return "failed"
        self._triggers_back()
        self.db.execute("RELEASE message")
        for name in ours.get("virtual", ()):
            self.virtual[name] = (
                meaning.sequence,
                meaning.node,
                meaning.process_id,
                meaning.number or 0,
            )
        return "apply"

    # --- rows ------------------------------------------------------------------------

    def _triggers_away(self) -> None:
        """Rows are applied without triggers, which Python's driver cannot switch off."""
        found = self.db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        for name, sql in found.fetchall():
            self.db.execute(f"DROP TRIGGER {quote(name.decode())}")
            self._triggers.append(sql)

    def _triggers_back(self) -> None:
        for sql in self._triggers:
            self.db.execute(sql.decode())
        self._triggers.clear()

    def _change(self, change: dict[str, Any], mode: str, existing: bool) -> None:
        name = change["table"]
        if change.get("database", "main") != "main" or _is_forbidden(name):
            return
        table = self._table(name)
        if table is None:
            return
        row = _cut(change, table, mode)
        if row is None:
            return
        if existing:
            _restore_blobs(row)
        if not self._triggers:
            self._triggers_away()
        self.db.execute("SAVEPOINT row")
        try:
            getattr(self, "_" + change["operation"].lower())(row)
        except (sqlite3.IntegrityError, sqlite3.OperationalError, sqlite3.DataError):
            self.db.execute("ROLLBACK TO row")
        self.db.execute("RELEASE row")

    def _insert(self, row: _Row) -> None:
        table, new = row.table, row.new
        assert new is not None
        rowid = row.new_rowid
        if table.integer_key is not None and table.integer_key in new:
            if new[table.integer_key] is None:
                new = {**new, table.integer_key: self._place(table, rowid)}
            self._write(table, new, None)
            return
        if table.rowid is None:
            self._write(table, new, None)
            return
        if rowid is not None and self._fits(table, new, rowid):
            self._write(table, new, rowid)
            return
        former = self._former(row, new, rowid)
        if former is not None:
            self._delete_at(table, former)
        if row.mode != "rowid":
            if rowid is None or self._exists(table, rowid):
                rowid = former if former is not None else self._next(table)
        elif rowid is None:
            rowid = self._next(table)
        self._write(table, new, rowid)

    def _former(self, row: _Row, new: dict[str, Any], rowid: int | None) -> int | None:
        """Under ``full`` an equal row elsewhere is another row."""
        if row.mode != "full":
            return self._find(row, new, rowid)
        found = None if rowid is None else self._find(row, new, rowid)
        return found if found == rowid else None

    def _fits(self, table: _Table, new: dict[str, Any], rowid: int) -> bool:
        self.db.execute("SAVEPOINT fits")
        try:
            self._write(table, new, rowid, "ABORT")
        except (sqlite3.IntegrityError, sqlite3.DataError):
            return False
        finally:
            self.db.execute("ROLLBACK TO fits")
            self.db.execute("RELEASE fits")
        return True

    def _update(self, row: _Row) -> None:
        table, new = row.table, row.new
        assert new is not None
        by = row.old if row.old is not None else new
        rowid = row.old_rowid
        if rowid is None and row.old is None:
            rowid = row.new_rowid
        if table.without_rowid:
            if any(c not in by for c in table.key):
                return
            where, values = self._by_key(table, by)
        else:
            found = self._find(row, by, rowid)
            if found is None:
                self._insert(row)
                return
            where, values = f"{quote(table.rowid or '')} = ?", [found]
        if table.without_rowid and not self._some(table, where, values):
            self._insert(row)
            return
        sets = dict(new)
        if (
            table.rowid is not None
            and (table.integer_key is None or table.integer_key not in new)
            and row.old_rowid is not None
            and row.new_rowid is not None
            and row.old_rowid != row.new_rowid
            and (row.mode == "rowid" or not self._exists(table, row.new_rowid))
        ):
            sets = {table.rowid: row.new_rowid, **new}
        marks, bound = _marks_of(sets.values())
        assignments = ", ".join(f"{quote(c)} = {m}" for c, m in zip(sets, marks, strict=True))
        self.db.execute(
            f"UPDATE OR REPLACE {quote(table.name)} SET {assignments} WHERE {where}",
            [*bound, *values],
        )

    def _delete(self, row: _Row) -> None:
        table, old = row.table, row.old
        if table.without_rowid:
            if old is None or any(c not in old for c in table.key):
                return
            where, values = self._by_key(table, old)
            self.db.execute(f"DELETE FROM {quote(table.name)} WHERE {where}", values)
            return
        if old is None and row.old_rowid is None:
            return
        found = self._find(row, old, row.old_rowid)
        if found is not None:
            self._delete_at(table, found)

    def _write(
        self, table: _Table, new: dict[str, Any], rowid: int | None, conflict: str = "REPLACE"
    ) -> None:
        values = dict(new) if rowid is None else {table.rowid or "": rowid, **new}
        marks, bound = _marks_of(values.values())
        self.db.execute(
            f"INSERT OR {conflict} INTO {quote(table.name)}"
            f" ({', '.join(map(quote, values))}) VALUES ({', '.join(marks)})",
            bound,
        )

    # --- finding rows ----------------------------------------------------------------

    def _find(self, row: _Row, values: dict[str, Any] | None, rowid: int | None) -> int | None:
        table = row.table
        mode = row.mode
        if table.rowid is None:
            return None
        if mode == "pk" and values is not None:
            where, bound = self._by_key(table, values)
            if all(values[c] is not None for c in table.key):
                return self._first(table, where, bound)
            if rowid is not None:
                return self._first(table, f"{quote(table.rowid)} = ? AND {where}", [rowid, *bound])
        elif rowid is not None and (mode == "rowid" or values is None):
            return rowid if self._exists(table, rowid) else None
        if values is None:
            return None
        marks, bound = _marks_of(values[c] for c in row.names)
        where = " AND ".join(
            f"{quote(c)} COLLATE BINARY IS {m}" for c, m in zip(row.names, marks, strict=True)
        )
        if rowid is not None:
            found = self._first(table, f"{quote(table.rowid)} = ? AND {where}", [rowid, *bound])
            if found is not None:
                return found
        return self._first(table, where, bound)

    def _by_key(self, table: _Table, values: dict[str, Any]) -> tuple[str, list[Any]]:
        marks, bound = _marks_of(values[c] for c in table.key)
        where = " AND ".join(
            f"{quote(c)} COLLATE {quote(collation)} IS {m}"
            for c, collation, m in zip(table.key, table.collations, marks, strict=True)
        )
        return where, bound

    def _first(self, table: _Table, where: str, values: list[Any]) -> int | None:
        rowid = quote(table.rowid or "")
        for (found,) in self.db.execute(
            f"SELECT {rowid} FROM {quote(table.name)} WHERE {where} ORDER BY {rowid} LIMIT 1",
            values,
        ):
            return int(found)
        return None

    def _some(self, table: _Table, where: str, values: list[Any]) -> bool:
        found = self.db.execute(f"SELECT 1 FROM {quote(table.name)} WHERE {where}", values)
        return found.fetchone() is not None

    def _exists(self, table: _Table, rowid: int) -> bool:
        return self._first(table, f"{quote(table.rowid or '')} = ?", [rowid]) is not None

    def _delete_at(self, table: _Table, rowid: int) -> None:
        self.db.execute(
            f"DELETE FROM {quote(table.name)} WHERE {quote(table.rowid or '')} = ?", (rowid,)
        )

    def _place(self, table: _Table, wanted: int | None) -> int:
        if wanted is not None and not self._exists(table, wanted):
            return wanted
        return self._next(table)

    def _next(self, table: _Table) -> int:
        """One after the greatest; if there is no such number, the lowest free one from 1."""
        rowid = quote(table.rowid or "")
        (greatest,) = self.db.execute(f"SELECT max({rowid}) FROM {quote(table.name)}").fetchone()
        if greatest is None:
            return 1
        if greatest < MAX_ROWID:
            return max(int(greatest) + 1, 1)
        taken = {r[0] for r in self.db.execute(f"SELECT {rowid} FROM {quote(table.name)}")}
        return next(n for n in range(1, MAX_ROWID) if n not in taken)

    # --- the schema ------------------------------------------------------------------

    def _table(self, name: str) -> _Table | None:
        found = self.db.execute(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main'"
            " AND name = ? COLLATE NOCASE",
            (name,),
        ).fetchone()
        if found is None or found[1] not in (b"table", b"shadow"):
            return None
        true_name, without_rowid = found[0].decode(), bool(found[2])
        columns: list[str] = []
        declared: list[str] = []
        key: list[tuple[int, str]] = []
        every: set[str] = set()
        for column, decltype, pk, hidden in self.db.execute(
            "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?, 'main')", (true_name,)
        ):
            every.add(column.decode().lower())
            if hidden:
                continue
            columns.append(column.decode())
            declared.append(decltype.decode())
            if pk:
                key.append((pk, column.decode()))
        names = [column for _, column in sorted(key)]
        collations: list[str] | None = None
        for (index,) in self.db.execute(
            "SELECT name FROM pragma_index_list(?, 'main') WHERE origin = 'pk'", (true_name,)
        ).fetchall():
            collations = [
                c.decode()
                for (c,) in self.db.execute(
                    "SELECT coll FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno",
                    (index.decode(),),
                )
            ]
        integer_key = None
        if not without_rowid and len(names) == 1 and collations is None:
            integer_key = names[0]
        rowid = integer_key
        if rowid is None and not without_rowid:
            rowid = next((n for n in ("rowid", "_rowid_", "oid") if n not in every), None)
        return _Table(
            true_name,
            columns,
            declared,
            names,
            collations or ["BINARY"] * len(names),
            without_rowid,
            rowid,
            integer_key,
        )

    def _sql(self, command: str, args: Row) -> None:
        """A schema change. Raises _Ignored if it neither works nor is done already."""
        words = _words(command)
        try:
            self.db.execute(command, args)
        except sqlite3.Error as error:
            if not self._is_done(words, command):
                raise _Ignored(str(error)) from error

    def _is_done(self, words: list[str], command: str) -> bool:
        """CREATE of what is there in the same words; DROP of what is gone; ALTER likewise."""
        upper = [w.upper() for w in words]
        if upper[0] == "DROP":
            return self._object(words[2:]) is None
        if upper[0] == "CREATE":
            at = next(i for i, w in enumerate(upper) if w in ("TABLE", "INDEX", "TRIGGER", "VIEW"))
            found = self._object(words[at + 1 :])
            if found is None or found[0].upper() != upper[at]:
                return False
            return _flat(found[1]) == _flat(command)
        if upper[0] == "ALTER":
            return self._is_alter_done(words, upper)
        return False

    def _is_alter_done(self, words: list[str], upper: list[str]) -> bool:
        name, rest, up = _bare(words[2]), words[3:], upper[3:]
        if up[:2] == ["RENAME", "TO"]:
            found = self._object(rest[2:])
            return self._object([name]) is None and found is not None and found[0] == "table"
        table = self._table(name)
        if table is None:
            return False
        columns = {c.lower() for c in table.columns}
        if up[1] == "COLUMN":
            rest, up = [rest[0], *rest[2:]], [up[0], *up[2:]]
        if up[0] == "RENAME":
            return _bare(rest[1]).lower() not in columns and _bare(rest[3]).lower() in columns
        if up[0] == "DROP":
            return _bare(rest[1]).lower() not in columns
        if _bare(rest[1]).lower() not in columns:
            return False
        there = self._object([name])
        assert there is not None
        return _flat(" ".join(rest[1:])) in _definitions(there[1])

    def _object(self, words: list[str]) -> tuple[str, str] | None:
        name = _bare(words[0])
        if name.upper() == "IF":
            name = _bare(words[3] if words[1].upper() == "NOT" else words[2])
        for kind, sql in self.db.execute(
            "SELECT type, sql FROM sqlite_schema WHERE name = ? COLLATE NOCASE", (name,)
        ):
            return kind.decode(), (sql or b"").decode()
        return None

    # --- sqlite_sequence -------------------------------------------------------------

    def _sequence(self, table: str) -> int | None:
        try:
            rows = self.db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        except sqlite3.OperationalError:
            return None
        return max((seq for (seq,) in rows if type(seq) is int), default=None)

    def _set_sequences(self, wanted: list[list[Any]], before: dict[str, int | None]) -> None:
        """What the transaction left, if it ran on this state; else the greater number."""
        exact = all(before[name] == old for name, old, _ in wanted)
        for name, _, new in wanted:
            now = self._sequence(name)
            number = new if exact else max((n for n in (now, new) if n is not None), default=None)
            if number == now:
                continue
            if number is not None and now is not None:
                self.db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (number, name))
                continue
            try:
                self.db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
                if number is not None:
                    self.db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, number))
            except sqlite3.OperationalError:
                return


class _Ignored(Exception):
    """The whole message is left out."""


def skips_in(entries: Iterable[tuple[int, bytes]]) -> frozenset[int]:
    """The sequences that messages of the log allow to be passed over."""
    found: set[int] = set()
    for _, payload in entries:
        if b'"skip"' not in payload:
            continue
        try:
            ours = json.loads(payload).get("ha") or {}
        except (ValueError, AttributeError):
            continue
        if isinstance(ours, dict) and ours.get("kind") == "skip":
            found.add(ours["target"])
    return frozenset(found)


# --- messages --------------------------------------------------------------------------


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise Broken(str(error)) from error
    if not isinstance(message, dict):
        raise Broken("not an object")
    ours = message.get("ha")
    if ours is not None and (not isinstance(ours, dict) or ours.get("v") != 1):
        raise Broken("a version that is not known")
    for change in message.get("changes") or ():
        operation = change.get("operation")
        if operation not in ("INSERT", "UPDATE", "DELETE", "SQL", "CUSTOM"):
            raise Broken(f"no such operation: {operation!r}")
        for which in ("old_values", "new_values"):
            values = change.get(which)
            if values and len(values) != len(change.get("columns") or ()):
                raise Broken("a row that does not fit its columns")
        if operation in ("INSERT", "UPDATE") and not change.get("new_values"):
            raise Broken(f"{operation} without new values")
    return message


def _join(parts: list[Any]) -> list[dict[str, Any]]:
    """The changes of a transaction that came in parts, those in pieces put together."""
    out: list[dict[str, Any]] = []
    pieces = ""
    for part in parts:
        ours = part["ha"]
        if "piece" in ours:
            pieces += ours["piece"]
            if not ours.get("more"):
                with suppress(ValueError):  # its beginning is missing: it has no effect
                    out.append(json.loads(pieces))
                pieces = ""
        else:
            out += part.get("changes") or []
    return out


def _values(change: dict[str, Any], which: str) -> Row:
    letters = change.get({"args": "args_types"}.get(which, which.replace("values", "types")))
    values = change.get(which) or []
    return tuple(_value(v, letters[i] if letters else ".") for i, v in enumerate(values))


def _value(value: Any, letter: str) -> Any:
    if letter == "b":
        return base64.b64decode(value)
    if letter == "r":
        return float(value)
    if letter == "x":
        return _Raw(base64.b64decode(value))
    return int(value) if isinstance(value, bool) else value


def _row(change: dict[str, Any], which: str) -> dict[str, Any] | None:
    if not change.get(which):
        return None
    return dict(zip(change["columns"], _values(change, which), strict=True))


def _cut(change: dict[str, Any], table: _Table, mode: str) -> _Row | None:
    """The change by the table's own columns, in the message's order."""
    have = {c.lower(): c for c in table.columns}
    names = [have[c.lower()] for c in change.get("columns") or () if c.lower() in have]
    names = list(dict.fromkeys(names))
    if not names:
        return None
    if mode == "pk" and (not table.key or any(c not in names for c in table.key)):
        mode = "rowid"
    if table.rowid is None and mode == "rowid":
        mode = "full"

    def cut(which: str) -> dict[str, Any] | None:
        row = _row(change, which)
        if row is None:
            return None
        lower: dict[str, Any] = {}
        for column, value in row.items():
            lower.setdefault(column.lower(), value)
        return {c: lower[c.lower()] for c in names}

    return _Row(
        table,
        names,
        cut("old_values"),
        cut("new_values"),
        change.get("old_rowid"),
        change.get("new_rowid"),
        mode,
    )


def _restore_blobs(row: _Row) -> None:
    """An existing node writes BLOBs as base64 text."""
    for column, decltype in zip(row.table.columns, row.table.declared, strict=True):
        if "BLOB" not in decltype.upper():
            continue
        for values in (row.old, row.new):
            if values is not None and isinstance(values.get(column), str):
                try:
                    values[column] = base64.b64decode(values[column], validate=True)
                except ValueError:
                    continue


def _marks_of(values: Any) -> tuple[list[str], list[Any]]:
    marks: list[str] = []
    bound: list[Any] = []
    for value in values:
        if isinstance(value, _Raw):
            marks.append("CAST(? AS TEXT)")
            bound.append(value.data)
        elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            marks.append("CAST(? AS TEXT)")
            bound.append(value.encode("utf-8", "surrogatepass"))
        else:
            marks.append("?")
            bound.append(value)
    return marks, bound


def _marks(changes: list[dict[str, Any]]) -> tuple[frozenset[str], frozenset[str]]:
    """Tokens that a message brings in, and the tables that it names."""
    tokens: set[str] = set()
    tables: set[str] = set()
    for change in changes:
        if change["operation"] == "SQL":
            tokens.update(_TOKEN.findall(change["command"]))
            tables.add("(schema)")
            continue
        tables.add(change["table"])
        new, old = (
            {t for v in change.get(which) or () if isinstance(v, str) for t in _TOKEN.findall(v)}
            for which in ("new_values", "old_values")
        )
        tokens.update(new - old)
    return frozenset(tokens), frozenset(tables)


def _is_forbidden(table: str) -> bool:
    name = table.lower()
    return name.startswith("ha_") or (
        name.startswith("sqlite_") and name not in ("sqlite_stat1", "sqlite_stat4")
    )


# --- SQL text --------------------------------------------------------------------------

_WORDS = re.compile(
    r"""--[^\n]*|/\*.*?\*/|\s+|("(?:[^"]|"")*"|'(?:[^']|'')*'|`[^`]*`|\[[^\]]*\]|\w+|.)""",
    re.DOTALL,
)


def _words(sql: str) -> list[str]:
    return [m for m in _WORDS.findall(sql) if m and m != ";"]


def _bare(word: str) -> str:
    if word[:1] in "\"'`" and len(word) > 1:
        return word[1:-1].replace(word[0] * 2, word[0])
    return word[1:-1] if word[:1] == "[" else word


def _flat(sql: str) -> tuple[str, ...]:
    """Words without case, quotes of names, and IF NOT EXISTS."""
    words = [w if w[:1] == "'" else _bare(w).lower() for w in _words(sql)]
    for i in range(len(words) - 2):
        if words[i : i + 3] == ["if", "not", "exists"]:
            return tuple(words[:i] + words[i + 3 :])
    return tuple(words)


def _definitions(sql: str) -> list[tuple[str, ...]]:
    """The column definitions of a CREATE TABLE."""
    words = _flat(sql)
    out: list[tuple[str, ...]] = []
    item: list[str] = []
    depth = 0
    for word in words[words.index("(") :]:
        if word == "(":
            depth += 1
            if depth == 1:
                continue
        if word == ")":
            depth -= 1
        if depth == 0 or (depth == 1 and word == ","):
            out.append(tuple(item))
            item = []
            if depth == 0:
                break
            continue
        item.append(word)
    return out
