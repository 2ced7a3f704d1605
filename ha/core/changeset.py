"""A transaction as a value: its changes, and the JSON message that carries it.

The format is that of the existing system (docs/spec.md, "The change-set message"); what it
lacks travels in the member ``ha`` of the message and in ``old_types``/``new_types`` of a
change, which older readers ignore.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from ha.core.values import Value, decode_values, encode_values, is_plain


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


_NO_ROWS = (Operation.SQL, Operation.CUSTOM)


@dataclass(slots=True, unsafe_hash=True)
class Change:
    """One row changed, or one statement run. Values stand in the order of ``columns``.

    A value, never changed after it is made; not frozen, since that would make it four times
    as slow to build, and there is one for each row. ``old_rowid``/``new_rowid`` are None for
    tables WITHOUT ROWID and for messages that left them out. ``columns`` names stored columns
    only, never generated ones.
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
    TERM = "term"  # opens the term of a leader: from here on only its messages count


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


@dataclass(slots=True)
class ChangeSet:
    """One transaction, one message: a value, as a :class:`Change` is, and like it not frozen.

    ``origin`` is None for messages of existing nodes, which carry no number. ``base`` is the
    applied sequence on which the transaction ran; ``after`` the number of the message that
    must precede it, since it ran on that one's effects (same process). ``virtual`` names the
    virtual tables whose shadow rows it carries. ``term``: of the leader that wrote it, None
    where every node writes. ``timestamp_ns`` is information, never used to decide.
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
    term: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def with_changes(self, changes: tuple[Change, ...]) -> ChangeSet:
        return replace(self, changes=changes)


# --- encoding ------------------------------------------------------------------------


_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode_change(c: Change) -> dict[str, Any]:
    """Absent means zero or empty, as the existing encoder writes it."""
    out: dict[str, Any] = {"database": c.database, "operation": c.operation.value}
    if c.operation in _NO_ROWS:
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


def _make_dumps(comma: str = ",") -> Callable[[Any], str]:
    """``json.dumps``, compact, ASCII and strict, without its costs a call where C is at hand."""
    encoder = json.JSONEncoder(separators=(comma, ":"), allow_nan=False, check_circular=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    text = json.encoder.encode_basestring_ascii
    in_c = make(None, encoder.default, text, None, ":", comma, False, False, False)
    return lambda value: "".join(in_c(value, 0))


_dumps = _make_dumps()
_dump_lines = _make_dumps(",\n")


def encode_changes(changes: Sequence[Change]) -> str:
    """``encode_change`` of each, as the text of a JSON array.

    One row after the other of the same table differs in its numbers and values only, so the
    rest of the text is made once, and their values go through the encoder together.
    """
    if len(changes) == 1 and changes[0].operation not in _NO_ROWS:
        return f"[{_encode_row(changes[0])}]"
    parts: list[str] = []
    run: list[Change] = []
    for c in changes:
        if run:
            last = run[-1]
            if (
                c.columns is last.columns
                and c.table is last.table
                and c.operation is last.operation
                and c.pk_columns is last.pk_columns
                and c.database is last.database
            ):
                run.append(c)
                continue
            _encode_run(run, parts)
            run = []
        if c.operation in _NO_ROWS:
            parts.append(_dumps(encode_change(c)))
        else:
            run.append(c)
    if run:
        _encode_run(run, parts)
    return f"[{','.join(parts)}]"


_FEW = 4


@lru_cache(256)
def _head(
    database: str,
    operation: Operation,
    table: str,
    columns: tuple[str, ...],
    pk_columns: tuple[str, ...],
) -> str:
    """What changes of a table have in common: the beginning of their text."""
    keys = f',"pk_columns":{_dumps(pk_columns)}' if pk_columns else ""
    return (
        f'{{"database":{_dumps(database)},"operation":"{operation.value}"'
        f',"table":{_dumps(table)},"columns":{_dumps(columns)}{keys}'
    )


def _encode_run(run: list[Change], parts: list[str]) -> None:
    """Changes of rows that are alike in all but rowids and values."""
    if len(run) < _FEW:
        parts.extend(map(_encode_row, run))
        return
    first = run[0]
    head = _head(first.database, first.operation, first.table, first.columns, first.pk_columns)
    old = _row_texts("old", [c.old_values for c in run])
    new = _row_texts("new", [c.new_values for c in run])
    for c, old_text, new_text in zip(run, old, new, strict=True):
        parts.append(f"{head}{_rowids(c)}{old_text}{new_text}}}")


def _encode_row(c: Change) -> str:
    head = _head(c.database, c.operation, c.table, c.columns, c.pk_columns)
    old, new = _row_text("old", c.old_values), _row_text("new", c.new_values)
    return f"{head}{_rowids(c)}{old}{new}}}"


def _rowids(c: Change) -> str:
    text = "" if c.old_rowid is None else f',"old_rowid":{c.old_rowid}'
    return text if c.new_rowid is None else f'{text},"new_rowid":{c.new_rowid}'


def _row_texts(which: str, rows: list[tuple[Value, ...] | None]) -> Iterable[str]:
    """The members for old or new values, one text a row."""
    if rows[0] is None and not any(rows):
        return repeat("", len(rows))
    if None in rows or not is_plain(list(chain.from_iterable(rows))):  # type: ignore[arg-type]
        return [_row_text(which, row) for row in rows]
    # A line break stands in no string of JSON, so that it can mark where rows end.
    text = _dump_lines(rows)[2:-2]
    bodies = text.replace("],\n[", "\0").replace("\n", "").split("\0")
    return [f',"{which}_values":[{body}]' for body in bodies]


def _row_text(which: str, values: tuple[Value, ...] | None) -> str:
    if values is None:
        return ""
    if is_plain(values):
        return f',"{which}_values":{_dumps(values)}'
    row, letters = encode_values(values)
    text = f',"{which}_values":{_dumps(row)}'
    return text if letters is None else f'{text},"{which}_types":"{letters}"'


def encode(cs: ChangeSet, changes: str | None = None) -> bytes:
    """The JSON message, ASCII only (so that lone surrogates survive any reader).

    ``changes``: what :func:`encode_changes` has made of them, if it was called already.
    """
    if changes is None:
        changes = encode_changes(cs.changes)
    text = (
        f'{_envelope(cs.node, cs.process_id, cs.database_id)},"changes":{changes}'
        f',"timestamp_ns":{cs.timestamp_ns},"ha":{{"v":1'
    )
    # Put together by hand, since each transaction has one: numbers need no encoder.
    if cs.kind is not Kind.TRANSACTION:
        text += f',"kind":"{cs.kind.value}"'
    if cs.origin is not None:
        text += f',"n":{cs.origin.number}'
    if cs.uuid is not None:
        text += f',"uuid":{_quoted(cs.uuid)}'
    if cs.base is not None:
        text += f',"base":{cs.base}'
    if cs.after is not None:
        text += f',"after":{cs.after}'
    if cs.target is not None:
        text += f',"target":{cs.target}'
    if cs.snapshot is not None:
        text += f',"snapshot":{cs.snapshot}'
    if cs.term is not None:
        text += f',"term":{cs.term}'
    if cs.identify is not None and cs.identify is not Identify.PK:
        text += f',"identify":"{cs.identify.value}"'
    if cs.virtual:
        text += f',"virtual":{_dumps(cs.virtual)}'
    if cs.sequences:
        text += f',"sequences":{_dumps([(s.table, s.old, s.new) for s in cs.sequences])}'
    if cs.extra:
        text += f",{_dumps(cs.extra)[1:-1]}"
    return f"{text}}}}}".encode("ascii")


@lru_cache(256)
def _quoted(text: str) -> str:
    return _dumps(text)


@lru_cache(256)
def _envelope(node: str, process_id: int, database_id: str) -> str:
    return _dumps({"node": node, "process_id": process_id, "filename": database_id})[:-1]


# --- decoding ------------------------------------------------------------------------

_OURS = {
    "v", "kind", "n", "uuid", "base", "after", "target", "snapshot", "identify", "virtual",
    "sequences", "term",
}  # fmt: skip


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_loads = json.JSONDecoder(parse_constant=_refuse_constant).decode


_BIG_PAYLOAD = 32_768


def decode(payload: bytes) -> ChangeSet:
    """Raises FormatError with a sentence on what is wrong with the message."""
    # Nothing of what is made here is garbage, and looking for some takes most of the time.
    pause = len(payload) > _BIG_PAYLOAD and gc.isenabled()
    if pause:
        gc.disable()
    try:
        return _decode(payload)
    finally:
        if pause:
            gc.enable()


def _decode(payload: bytes) -> ChangeSet:
    try:
        raw = _loads(payload.decode("utf-8"))
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
    listed = raw.get("changes") or ()
    if not isinstance(listed, list | tuple):
        raise FormatError("changes is not a list")
    names = _Names()
    changes = tuple([decode_change(c, names) for c in listed])
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
        uuid=_optional_text(ours, "uuid"),
        base=_optional_integer(ours, "base"),
        after=_optional_integer(ours, "after"),
        identify=Identify(ours.get("identify", Identify.PK.value)),
        virtual=tuple(_strings(_list(ours, "virtual"))),
        sequences=tuple(_decode_sequence(s) for s in _list(ours, "sequences")),
        target=_optional_integer(ours, "target"),
        snapshot=_optional_integer(ours, "snapshot"),
        term=_optional_integer(ours, "term"),
        extra={k: v for k, v in ours.items() if k not in _OURS},
    )


class _Names:
    """The lists of column names that were met, so that equal ones are one object."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._last: dict[str, tuple[list[Any], tuple[str, ...]]] = {}

    def read(self, value: Any, name: str) -> tuple[str, ...]:
        if value is None:
            return ()
        last = self._last.get(name)
        if last is not None and last[0] == value:
            return last[1]
        if type(value) is not list:
            raise FormatError(f"{name} is not a list")
        key = tuple(_strings(value))
        names = self._known.setdefault(key, key)
        self._last[name] = (value, names)
        return names


_OPERATIONS: dict[object, Operation] = {o.value: o for o in Operation}


def decode_change(raw: Any, names: _Names | None = None) -> Change:
    """The inverse of :func:`encode_change`. Raises FormatError, ValueError, TypeError."""
    if not isinstance(raw, dict):
        raise FormatError(f"a change is a JSON object, not {type(raw).__name__}")
    get = raw.get
    operation = _OPERATIONS.get(get("operation"))
    if operation is None:
        raise FormatError(f"operation {get('operation')!r} is not known")
    table, database = get("table"), get("database")
    if type(table) is not str:
        table = _text(raw, "table")
    if database != "main":
        database = _text(raw, "database") or "main"
    if operation is Operation.SQL or operation is Operation.CUSTOM:
        return Change(
            operation=operation,
            table=table,
            command=_text(raw, "command"),
            args=decode_values(_list(raw, "args"), get("args_types")),
            database=database,
        )
    if names is None:
        names = _Names()
    columns = names.read(get("columns"), "columns")
    pk_columns = names.read(get("pk_columns"), "pk_columns")
    old, new = get("old_values"), get("new_values")
    old = _row("old_values", old, get("old_types"), columns) if old else None
    new = _row("new_values", new, get("new_types"), columns) if new else None
    if new is None and operation is not Operation.DELETE:
        raise FormatError(f"{operation} without new_values")
    old_rowid, new_rowid = get("old_rowid"), get("new_rowid")
    if old_rowid is not None:
        _check_integer("old_rowid", old_rowid)
    if new_rowid is not None:
        _check_integer("new_rowid", new_rowid)
    return Change(
        operation, table, columns, pk_columns, old_rowid, new_rowid, old, new, "", (), database
    )


def _strings(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if type(value) is not str:
            raise FormatError(f"a name is not a string: {value!r}")
        yield value


def _decode_sequence(raw: Any) -> SequenceChange:
    table, old, new = raw
    if type(table) is not str:
        raise FormatError("a sequence without the name of its table")
    for number in (old, new):
        if number is not None:
            _check_integer("a sequence", number)
    return SequenceChange(table, old, new)


def _row(name: str, values: Any, letters: object, columns: tuple[str, ...]) -> tuple[Value, ...]:
    if type(values) is not list:
        raise FormatError(f"{name} is not a list")
    if len(values) != len(columns):
        raise FormatError(f"{name} has {len(values)} values for {len(columns)} columns")
    return decode_values(values, letters)


def _list(raw: dict[str, Any], name: str) -> list[Any] | tuple[Any, ...]:
    value = raw.get(name)
    if value is None:
        return ()
    if type(value) is not list:
        raise FormatError(f"{name} is not a list")
    return value


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
    if value is not None:
        _check_integer(name, value)
    return value


def _optional_text(raw: dict[str, Any], name: str) -> str | None:
    return None if raw.get(name) is None else _text(raw, name)


def _check_integer(name: str, value: object) -> None:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise FormatError(f"{name} is not a 64-bit integer")
