"""A transaction as a value: its changes, and the JSON message that carries it.

The format is that of the existing system (docs/spec.md, "The change-set message"); what it
lacks travels in the member ``ha`` of the message and in ``old_types``/``new_types`` of a
change, which older readers ignore.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ha.core.values import Value, decode_values, encode_values


class FormatError(ValueError):
    """A message that cannot be decoded: it halts the node until it is skipped."""


class Operation(StrEnum):
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    SQL = "SQL"  # DDL, and pragmas that live in the file's header
    CUSTOM = "CUSTOM"  # known to the format, written by nobody: decoded and ignored


class Identify(StrEnum):
    """How a changed row is found again on another node."""

    PK = "pk"  # by the declared primary key, else by rowid
    ROWID = "rowid"
    FULL = "full"  # by all old values


@dataclass(slots=True, unsafe_hash=True)
class Change:
    """One row changed, or one statement run. Values stand in the order of ``columns``.

    A value, never changed after it is made; not frozen, since that would make it four times as
    slow to build, and there is one for each row. ``old_rowid``/``new_rowid`` are None for tables WITHOUT ROWID and for messages that left
    them out. ``columns`` names stored columns only, never generated ones.
    """

    operation: Operation
    table: str = ""
    columns: tuple[str, ...] = ()
    pk_columns: tuple[str, ...] = ()
    old_rowid: int | None = None
    new_rowid: int | None = None
    old_values: tuple[Value, ...] | None = None
    new_values: tuple[Value, ...] | None = None
    command: str = ""
    args: tuple[Value, ...] = ()
    database: str = "main"


@dataclass(frozen=True, slots=True)
class SequenceChange:
    """An effect on ``sqlite_sequence`` that no row change shows. None: no such row."""

    table: str
    old: int | None
    new: int | None


class Kind(StrEnum):
    """What a message of ours does. Messages of existing nodes are all transactions."""

    TRANSACTION = "tx"
    BASE = "base"  # opens a log: the identity of the database, and where its content is
    VOID = "void"  # does nothing; takes the place of a message whose publish timed out
    SKIP = "skip"  # lets all nodes pass over the message at ``target``


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wrote a message: ``number`` grows by one a message within one ``process_id``."""

    node: str
    process_id: int
    number: int

    @property
    def message_id(self) -> str:
        """The ``Nats-Msg-Id``."""
        return f"{self.node}-{self.process_id}-{self.number}"


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """One transaction, one message.

    ``origin`` is None for messages of existing nodes, which carry no number. ``base`` is the
    applied sequence on which the transaction ran; ``after`` the number of the message that
    must precede it, since it ran on that one's effects (same process). ``virtual`` names the
    virtual tables whose shadow rows it carries. ``timestamp_ns`` is information, never used
    to decide.
    """

    node: str
    process_id: int
    database_id: str
    changes: tuple[Change, ...]
    timestamp_ns: int = 0
    kind: Kind = Kind.TRANSACTION
    origin: Origin | None = None
    uuid: str | None = None
    base: int | None = None
    after: int | None = None
    identify: Identify | None = None
    virtual: tuple[str, ...] = ()
    sequences: tuple[SequenceChange, ...] = ()
    target: int | None = None
    snapshot: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def with_changes(self, changes: tuple[Change, ...]) -> ChangeSet:
        return replace(self, changes=changes)


# --- encoding ------------------------------------------------------------------------


_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode_change(c: Change) -> dict[str, Any]:
    """Absent means zero or empty, as the existing encoder writes it."""
    out: dict[str, Any] = {"database": c.database, "operation": c.operation.value}
    if c.operation in (Operation.SQL, Operation.CUSTOM):
        out["command"] = c.command
        if c.table:
            out["table"] = c.table
        if c.args:
            out["args"], letters = encode_values(c.args)
            if letters:
                out["args_types"] = letters
        return out
    out["table"] = c.table
    out["columns"] = list(c.columns)
    if c.pk_columns:
        out["pk_columns"] = list(c.pk_columns)
    if c.old_rowid is not None:
        out["old_rowid"] = c.old_rowid
    if c.new_rowid is not None:
        out["new_rowid"] = c.new_rowid
    if c.old_values is not None:
        out["old_values"], letters = encode_values(c.old_values)
        if letters:
            out["old_types"] = letters
    if c.new_values is not None:
        out["new_values"], letters = encode_values(c.new_values)
        if letters:
            out["new_types"] = letters
    return out


def encode(cs: ChangeSet) -> bytes:
    """The JSON message, ASCII only (so that lone surrogates survive any reader)."""
    ours: dict[str, Any] = {"v": 1}
    if cs.kind is not Kind.TRANSACTION:
        ours["kind"] = cs.kind.value
    if cs.origin is not None:
        ours["n"] = cs.origin.number
    for name, value in (
        ("uuid", cs.uuid),
        ("base", cs.base),
        ("after", cs.after),
        ("target", cs.target),
        ("snapshot", cs.snapshot),
    ):
        if value is not None:
            ours[name] = value
    if cs.identify is not None and cs.identify is not Identify.PK:
        ours["identify"] = cs.identify.value
    if cs.virtual:
        ours["virtual"] = list(cs.virtual)
    if cs.sequences:
        ours["sequences"] = [[s.table, s.old, s.new] for s in cs.sequences]
    ours.update(cs.extra)
    message = {
        "node": cs.node,
        "process_id": cs.process_id,
        "filename": cs.database_id,
        "changes": [encode_change(c) for c in cs.changes],
        "timestamp_ns": cs.timestamp_ns,
        "ha": ours,
    }
    return _to_json(message).encode("ascii")


# --- decoding ------------------------------------------------------------------------

_OURS = {
    "v", "kind", "n", "uuid", "base", "after", "target", "snapshot", "identify", "virtual",
    "sequences",
}  # fmt: skip


def decode(payload: bytes) -> ChangeSet:
    """Raises FormatError with a sentence on what is wrong with the message."""
    try:
        raw = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from error
    try:
        return _decode_message(raw)
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"broken change set: {error}") from error


def _decode_message(raw: Any) -> ChangeSet:
    if not isinstance(raw, dict):
        raise FormatError(f"a change set is a JSON object, not {type(raw).__name__}")
    ours = raw.get("ha")
    node = _text(raw, "node")
    process_id = _integer(raw, "process_id")
    changes = tuple(decode_change(c) for c in raw.get("changes") or ())
    if ours is None:
        return ChangeSet(
            node=node,
            process_id=process_id,
            database_id=_text(raw, "filename"),
            changes=changes,
            timestamp_ns=_integer(raw, "timestamp_ns"),
        )
    if not isinstance(ours, dict):
        raise FormatError("member 'ha' is not an object")
    if ours.get("v") != 1:
        raise FormatError(f"message version {ours.get('v')!r} is not known here: upgrade this node")
    number = ours.get("n")
    return ChangeSet(
        node=node,
        process_id=process_id,
        database_id=_text(raw, "filename"),
        changes=changes,
        timestamp_ns=_integer(raw, "timestamp_ns"),
        kind=Kind(ours.get("kind", Kind.TRANSACTION.value)),
        origin=None if number is None else Origin(node, process_id, _integer(ours, "n")),
        uuid=ours.get("uuid"),
        base=_optional_integer(ours, "base"),
        after=_optional_integer(ours, "after"),
        identify=Identify(ours.get("identify", Identify.PK.value)),
        virtual=tuple(str(v) for v in ours.get("virtual", ())),
        sequences=tuple(
            SequenceChange(str(t), old, new) for t, old, new in ours.get("sequences", ())
        ),
        target=_optional_integer(ours, "target"),
        snapshot=_optional_integer(ours, "snapshot"),
        extra={k: v for k, v in ours.items() if k not in _OURS},
    )


def decode_change(raw: Any) -> Change:
    if not isinstance(raw, dict):
        raise FormatError(f"a change is a JSON object, not {type(raw).__name__}")
    operation = Operation(_text(raw, "operation"))
    database = _text(raw, "database") or "main"
    if operation in (Operation.SQL, Operation.CUSTOM):
        return Change(
            operation=operation,
            table=_text(raw, "table"),
            command=_text(raw, "command"),
            args=decode_values(raw.get("args") or (), raw.get("args_types")),
            database=database,
        )
    columns = tuple(str(c) for c in raw.get("columns") or ())
    old = _row(raw, "old", columns)
    new = _row(raw, "new", columns)
    if operation is not Operation.DELETE and new is None:
        raise FormatError(f"{operation} without new_values")
    return Change(
        operation=operation,
        table=_text(raw, "table"),
        columns=columns,
        pk_columns=tuple(str(c) for c in raw.get("pk_columns") or ()),
        old_rowid=_optional_integer(raw, "old_rowid"),
        new_rowid=_optional_integer(raw, "new_rowid"),
        old_values=old,
        new_values=new,
        database=database,
    )


def _row(raw: dict[str, Any], which: str, columns: tuple[str, ...]) -> tuple[Value, ...] | None:
    values = raw.get(f"{which}_values")
    if not values:
        return None
    row = decode_values(values, raw.get(f"{which}_types"))
    if len(row) != len(columns):
        raise FormatError(f"{which}_values has {len(row)} values for {len(columns)} columns")
    return row


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name, "")
    if value is None:
        return ""
    if type(value) is not str:
        raise FormatError(f"{name} is not a string")
    return value


def _integer(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name, 0)
    if type(value) is not int:
        raise FormatError(f"{name} is not an integer")
    return value


def _optional_integer(raw: dict[str, Any], name: str) -> int | None:
    value = raw.get(name)
    if value is not None and type(value) is not int:
        raise FormatError(f"{name} is not an integer")
    return value
